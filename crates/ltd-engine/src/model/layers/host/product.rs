//! Products of a few rows with a large weight, at the speed at which the weight can be read.
//!
//! A weight is packed once, into panels of the outputs that a tile of sums is computed for: a panel is read from end to end,
//! and a number of the rows is multiplied with all of a panel's outputs at once. What is done with a product is done while
//! it is in registers. Each sum is taken in the order of the inputs, whatever the number of rows: a row's result does not
//! depend on the rows beside it.

use std::any::TypeId;

use tch::{Device, Kind, Tensor};

use super::element::{Element, with_element};
use super::simd::{InstructionSet, Instructions, Kernel, LANES, Vector, dispatch_to};
use super::sums::Sums;
use super::{elements, elements_mut, parallel};

/// Vectors of outputs in a panel.
const VECTORS: usize = 2;
/// Outputs in a panel.
const PANEL: usize = VECTORS * LANES;
/// Rows whose sums fit in the registers of AVX-512, beside what is multiplied.
const ROWS: usize = 12;

/// What is done with a product where it is computed.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Fused<'t> {
    Nothing,
    /// `silu(product)`.
    Silu,
    /// `product * other`.
    Times(&'t Tensor),
    /// `product + other`.
    Plus(&'t Tensor),
}

/// A weight in panels: `[panels, inputs / numbers, VECTORS, LANES, numbers]`, where as many numbers as an instruction
/// multiplies and adds are neighbours. Outputs that the last panel has too many are zeros.
#[derive(Debug)]
pub(in super::super) struct Panels {
    packed: Tensor,
    outputs: i64,
    inputs: i64,
    instructions: InstructionSet,
}

impl Panels {
    /// Packs a `[outputs, inputs]` weight if there are [`Self::instructions`] for it.
    pub(in super::super) fn new(weight: &Tensor) -> Option<Self> {
        let instructions = Self::instructions(weight.device(), weight.kind(), weight.size()[1])?;
        Some(Self::pack(weight, instructions))
    }

    /// The instructions of this processor that multiply such weights faster than oneDNN.
    pub(in super::super) fn instructions(device: Device, kind: Kind, inputs: i64) -> Option<InstructionSet> {
        let whole = device == Device::Cpu && inputs % numbers(kind) == 0;
        let needed = needed_instructions(kind).filter(|_| whole)?;
        Some(InstructionSet::best()).filter(|best| *best >= needed)
    }

    fn pack(weight: &Tensor, instructions: InstructionSet) -> Self {
        let &[outputs, inputs] = weight.size().as_slice() else { unreachable!("a weight is a matrix") };
        let missing = (PANEL as i64 - outputs % PANEL as i64) % PANEL as i64;
        let whole =
            if missing == 0 { weight.shallow_clone() } else { weight.constant_pad_nd([0, 0, 0, missing]) };
        let numbers = numbers(weight.kind());
        let packed = whole
            .reshape([-1, VECTORS as i64, LANES as i64, inputs / numbers, numbers])
            .permute([0, 3, 1, 2, 4])
            .contiguous();
        Self { packed, outputs, inputs, instructions }
    }

    /// `[n, inputs] -> [n, outputs]`; the `bias` `[outputs]` is added before all else.
    pub(in super::super) fn forward(&self, x: &Tensor, bias: Option<&Tensor>, fused: Fused) -> Tensor {
        let x = x.contiguous();
        let rows = x.size()[0];
        // Memory is read by these sizes; they were checked when the weights were loaded.
        assert_eq!((x.kind(), x.size().as_slice()), (self.packed.kind(), [rows, self.inputs].as_slice()));
        let result = x.new_empty([rows, self.outputs], (x.kind(), x.device()));
        let other = match fused {
            Fused::Times(other) | Fused::Plus(other) => Some(other.contiguous()),
            Fused::Nothing | Fused::Silu => None,
        };
        assert!(other.as_ref().is_none_or(|other| other.size() == result.size() && other.kind() == x.kind()));
        assert!(bias.is_none_or(|bias| bias.size() == [self.outputs] && bias.kind() == x.kind()));
        let (rows, instructions) = (rows as usize, self.instructions);
        with_element!(x.kind(), T => {
            // The result is new; the weight's type is x's.
            let kernel = unsafe {
                Product::<T> {
                    x: elements(&x),
                    weight: elements(&self.packed),
                    bias: bias.map(|bias| elements(bias)),
                    other: other.as_ref().map(|other| elements(other)),
                    then: Then::from(fused),
                    rows,
                    inputs: self.inputs as usize,
                    outputs: self.outputs as usize,
                    threads: parallel::threads(),
                    result: elements_mut::<T>(&result).as_mut_ptr() as usize,
                }
            };
            let panels = kernel.outputs.div_ceil(PANEL);
            parallel::for_each(panels, &|panel| dispatch_to(instructions, &kernel, panel));
        });
        result
    }
}

/// Where this kernel is faster than oneDNN's.
#[cfg(target_arch = "x86_64")]
fn needed_instructions(kind: Kind) -> Option<InstructionSet> {
    match kind {
        Kind::Float => Some(InstructionSet::Avx512),
        // oneDNN knows AMX, which does many times more at once.
        Kind::BFloat16 if !has_amx() => Some(InstructionSet::Avx512Bf16),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn needed_instructions(_: Kind) -> Option<InstructionSet> {
    None
}

/// Whether the processor multiplies tiles of bf16.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    // Leaf 7, EDX: the standard library's name for it is not stable yet.
    const AMX_BF16: u32 = 1 << 22;
    std::arch::x86_64::__cpuid(0).eax >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16 != 0
}

/// Numbers that are neighbours.
fn numbers(kind: Kind) -> i64 {
    if kind == Kind::BFloat16 { 2 } else { 1 }
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Silu,
    Times,
    Plus,
}

impl From<Fused<'_>> for Then {
    fn from(fused: Fused) -> Self {
        match fused {
            Fused::Nothing => Self::Nothing,
            Fused::Silu => Self::Silu,
            Fused::Times(_) => Self::Times,
            Fused::Plus(_) => Self::Plus,
        }
    }
}

struct Product<'t, T> {
    x: &'t [T],
    weight: &'t [T],
    bias: Option<&'t [T]>,
    other: Option<&'t [T]>,
    then: Then,
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// That take panels by turns.
    threads: usize,
    /// Address of the result, of which each item writes its panel's columns.
    result: usize,
}

impl<T: Element> Kernel for Product<'_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, panel: usize) {
        // Blocks of equal size: a small one at the end would wait for its few sums.
        let blocks = self.rows.div_ceil(ROWS);
        let size = self.rows.div_ceil(blocks.max(1));
        for (block, first) in (0..self.rows).step_by(size.max(1)).enumerate() {
            let next = self.next(panel, block, blocks);
            match size.min(self.rows - first) {
                1 => self.tile::<I, 1>(panel, first, next),
                2 => self.tile::<I, 2>(panel, first, next),
                3 => self.tile::<I, 3>(panel, first, next),
                4 => self.tile::<I, 4>(panel, first, next),
                5 => self.tile::<I, 5>(panel, first, next),
                6 => self.tile::<I, 6>(panel, first, next),
                7 => self.tile::<I, 7>(panel, first, next),
                8 => self.tile::<I, 8>(panel, first, next),
                9 => self.tile::<I, 9>(panel, first, next),
                10 => self.tile::<I, 10>(panel, first, next),
                11 => self.tile::<I, 11>(panel, first, next),
                _ => self.tile::<I, ROWS>(panel, first, next),
            }
        }
    }
}

impl<T: Element> Product<'_, T> {
    /// What of its next panel a thread fetches into the cache while it multiplies a block of rows: memory would be idle while
    /// the blocks after the first multiply what is in the cache. With one block all of it, else a half in each of the last two.
    #[inline(always)]
    fn next(&self, panel: usize, block: usize, blocks: usize) -> &[T] {
        let size = self.inputs * PANEL;
        let start = (panel + self.threads) * size;
        let nothing = &self.weight[..0];
        if start >= self.weight.len() {
            return nothing;
        }
        let next = &self.weight[start..][..size];
        match blocks - block {
            1 if blocks == 1 => next,
            1 => &next[size / 2..],
            2 => &next[..size / 2],
            _ => nothing,
        }
    }

    /// Some rows' products with a panel; fetches `next` meanwhile.
    #[inline(always)]
    fn tile<I: Instructions, const COUNT: usize>(&self, panel: usize, first: usize, next: &[T]) {
        type Unit<T, I> = <<T as Element>::Sums<I> as Sums>::Unit;
        assert!(
            TypeId::of::<T>() == TypeId::of::<<T::Sums<I> as Sums>::Number>(),
            "weights are packed for instructions that read them"
        );
        let steps = self.inputs / T::Sums::<I>::NUMBERS;
        let size = self.inputs * PANEL;
        let weight = &self.weight[panel * size..][..size];
        let rows = &self.x[first * self.inputs..][..COUNT * self.inputs];
        let stride = size_of_val(next) / steps;
        let next: *const u8 = next.as_ptr().cast();
        let mut sums = [[T::Sums::<I>::zero(); VECTORS]; COUNT];
        unsafe {
            let weight: *const [[Unit<T, I>; LANES]; VECTORS] = weight.as_ptr().cast();
            let rows: *const Unit<T, I> = rows.as_ptr().cast();
            for step in 0..steps {
                let lanes = &*weight.add(step);
                // The same line twice, where a step fetches one or none.
                I::fetch(next.wrapping_add(step * stride));
                I::fetch(next.wrapping_add(step * stride + stride / 2));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let unit = *rows.add(row * steps + step);
                    for (sum, lanes) in sums.iter_mut().zip(lanes) {
                        *sum = sum.add(lanes, unit);
                    }
                }
            }
        }
        for (row, sums) in (first..).zip(sums) {
            for (vector, sum) in sums.into_iter().enumerate() {
                let column = panel * PANEL + vector * LANES;
                if column < self.outputs {
                    self.finish::<I>(row, column, sum.get());
                }
            }
        }
    }

    /// Does what is to be done with a vector of sums, and stores it.
    #[inline(always)]
    fn finish<I: Instructions>(&self, row: usize, column: usize, sums: Vector) {
        let count = LANES.min(self.outputs - column);
        let place = row * self.outputs + column;
        let mut values = sums;
        if let Some(bias) = self.bias {
            let bias = vector(&bias[column..][..count]);
            for (value, bias) in values.iter_mut().zip(bias) {
                *value += bias;
            }
        }
        let other = self.other.map_or([0.0; LANES], |other| vector(&other[place..][..count]));
        match self.then {
            Then::Nothing => {}
            Then::Silu => values = silu::<I>(values),
            Then::Times => values = I::multiply(values, other),
            Then::Plus => {
                for (value, other) in values.iter_mut().zip(other) {
                    *value += other;
                }
            }
        }
        let rounded = T::from_vector::<I>(values);
        let output = unsafe { std::slice::from_raw_parts_mut((self.result as *mut T).add(place), count) };
        match output.first_chunk_mut() {
            Some(output) => *output = rounded,
            None => output.copy_from_slice(&rounded[..count]),
        }
    }
}

/// Numbers as a vector; zeros where there are too few. Apart, so that a whole one is read at once.
#[inline(always)]
fn vector<T: Element>(numbers: &[T]) -> Vector {
    let mut vector = [0.0; LANES];
    match numbers.first_chunk::<LANES>() {
        Some(numbers) => {
            for (value, number) in vector.iter_mut().zip(numbers) {
                *value = number.to_f32();
            }
        }
        None => {
            for (value, number) in vector.iter_mut().zip(numbers) {
                *value = number.to_f32();
            }
        }
    }
    vector
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
fn silu<I: Instructions>(x: Vector) -> Vector {
    let mut below = x;
    for value in &mut below {
        *value = value.abs() * -std::f32::consts::LOG2_E;
    }
    // Of a negative number the logistic function is the rest to 1 of that of its opposite.
    let powers = I::exp2(below);
    let mut result = x;
    for (value, power) in result.iter_mut().zip(powers) {
        let part = if *value < 0.0 { power } else { 1.0 };
        *value *= part / (1.0 + power);
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Packed for each instruction set of this processor that multiplies the type.
    fn packed(weight: &Tensor) -> impl Iterator<Item = Panels> {
        let needed = match weight.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::BFloat16 => Some(InstructionSet::Avx512Bf16),
            Kind::Float => Some(InstructionSet::Baseline),
            _ => None,
        };
        let sets = InstructionSet::ALL.iter().copied();
        let usable = sets
            .filter(move |set| needed.is_some_and(|needed| (needed..=InstructionSet::best()).contains(set)));
        usable.map(|set| Panels::pack(weight, set))
    }

    fn expected(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, fused: Fused) -> Tensor {
        let single = |tensor: &Tensor| tensor.to_kind(Kind::Float);
        let product = single(x).linear(&single(weight), bias.map(single));
        match fused {
            Fused::Nothing => product,
            Fused::Silu => product.silu(),
            Fused::Times(other) => product * single(other),
            Fused::Plus(other) => product + single(other),
        }
    }

    proptest! {
        #[test]
        fn products_are_those_of_libtorch(
            rows in 1i64..40, outputs in 1i64..100, half in 1i64..80, biased in any::<bool>(),
        ) {
            for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 8e-3)] {
                let random = |shape: &[i64]| Tensor::randn(shape, CPU).to_kind(kind);
                let (x, weight) = (random(&[rows, 2 * half]), random(&[outputs, 2 * half]));
                let (bias, other) = (biased.then(|| random(&[outputs])), random(&[rows, outputs]));
                for panels in packed(&weight) {
                    for fused in [Fused::Nothing, Fused::Silu, Fused::Times(&other), Fused::Plus(&other)] {
                        let expected = expected(&x, &weight, bias.as_ref(), fused);
                        let found = panels.forward(&x, bias.as_ref(), fused);
                        prop_assert_eq!((found.kind(), found.size()), (kind, expected.size()));
                        // Relative to what is added up.
                        let scale = expected.abs() + (2.0 * half as f64).sqrt();
                        let error = (found.to_kind(Kind::Float) - expected) / scale;
                        let error = error.abs().max().double_value(&[]);
                        prop_assert!(error < tolerance, "{:?} {:?}: {}", kind, fused, error);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, weight) =
                (Tensor::randn([43, 150], CPU).to_kind(kind), Tensor::randn([70, 150], CPU).to_kind(kind));
            for panels in packed(&weight) {
                let together = panels.forward(&x, None, Fused::Silu);
                for (first, count) in (0..43).flat_map(|first| [1, 2, 7, 13, 30].map(|count| (first, count)))
                {
                    if first + count <= 43 {
                        let apart = panels.forward(&x.narrow(0, first, count), None, Fused::Silu);
                        assert_eq!(
                            apart,
                            together.narrow(0, first, count),
                            "{kind:?} {:?}",
                            panels.instructions
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn silu_is_right_far_from_zero_too() {
        let values = [-1e4, -90.0, -20.0, -1.0, -0.0, 0.0, 1e-3, 20.0, 90.0, 1e4f32];
        let x = Tensor::from_slice(&values).view([10, 1]);
        let one = Tensor::ones([1, 1], CPU);
        for panels in packed(&one) {
            let found = panels.forward(&x, None, Fused::Silu);
            let error = ((found - x.silu()) / (x.abs() + 1e-30)).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{:?}: {error}", panels.instructions);
        }
    }
}
