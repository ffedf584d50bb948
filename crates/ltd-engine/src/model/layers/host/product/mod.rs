//! Products of a few rows with a large weight, at the speed at which the weight can be read.
//!
//! A weight is packed once, into panels of the outputs that a tile of sums is computed for: a panel is read from end to end,
//! and a number of the rows is multiplied with all of a panel's outputs at once. What is done with a product is done while
//! it is in registers. Each sum is taken in the order of the inputs, whatever the number of rows: a row's result does not
//! depend on the rows beside it.

mod kernel;

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use super::element::{Element, with_element};
use super::memory::{Handover, Line, SharedMut};
use super::norm::{Input, RowNorm};
use super::simd::LANES;
use super::{InstructionSet, elements, elements_mut, parallel};
use kernel::VECTORS;

pub(super) use kernel::{Columns, PANEL, Product, Then};

thread_local! {
    /// Of the thread that starts a product.
    static NORMED: RefCell<Vec<Line>> = RefCell::default();
}

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

    /// Packed for each instruction set of this processor that multiplies the type.
    #[cfg(test)]
    pub(super) fn of_all_instructions(weight: &Tensor) -> Vec<Self> {
        let usable = InstructionSet::available().filter(|set| match weight.kind() {
            Kind::BFloat16 => set.multiplies_bf16(),
            kind => kind == Kind::Float,
        });
        let panels: Vec<Self> = usable.map(|set| Self::pack(weight, set)).collect();
        if panels.is_empty() {
            println!("not covered: products of {:?}, which this processor does not have", weight.kind());
        }
        panels
    }

    /// The instructions of this processor that multiply such weights faster than oneDNN.
    pub(in super::super) fn instructions(device: Device, kind: Kind, inputs: i64) -> Option<InstructionSet> {
        let whole = device == Device::Cpu && inputs % neighbours(kind) == 0;
        Some(InstructionSet::best()).filter(|best| whole && is_faster(*best, kind))
    }

    fn pack(weight: &Tensor, instructions: InstructionSet) -> Self {
        let &[outputs, inputs] = weight.size().as_slice() else { unreachable!("a weight is a matrix") };
        let missing = (PANEL as i64 - outputs % PANEL as i64) % PANEL as i64;
        let whole =
            if missing == 0 { weight.shallow_clone() } else { weight.constant_pad_nd([0, 0, 0, missing]) };
        let numbers = neighbours(weight.kind());
        let packed = whole
            .reshape([-1, VECTORS as i64, LANES as i64, inputs / numbers, numbers])
            .permute([0, 3, 1, 2, 4])
            .contiguous();
        Self { packed, outputs, inputs, instructions }
    }
}

/// A weight and the bias `[outputs]` that is added to its product before all else.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Biased<'t> {
    pub(in super::super) weight: &'t Panels,
    pub(in super::super) bias: Option<&'t Tensor>,
}

impl<'t> Biased<'t> {
    /// `[n, inputs] -> [n, outputs]`, of the rows or of the normed rows.
    pub(in super::super) fn forward(self, x: &Tensor, norm: Option<RowNorm>, fused: Fused) -> Tensor {
        let x = self.rows(x);
        let result = self.result(&x);
        let other = match fused {
            Fused::Times(other) | Fused::Plus(other) => Some(other.contiguous()),
            Fused::Nothing | Fused::Silu => None,
        };
        assert!(
            other.as_ref().is_none_or(|other| other.size() == result.size()),
            "{other:?} is added to {result:?}"
        );
        with_element!(x.kind(), T => NORMED.with_borrow_mut(|memory| {
            // SAFETY: The result is new, and the other ones are only read until it is returned.
            let (x, other, result) = unsafe {
                let columns = |other| Columns::of(elements::<T>(other).into(), self.outputs());
                let other = other.as_ref().map(columns);
                (elements::<T>(&x), other, elements_mut::<T>(&result))
            };
            let then = match (fused, other) {
                (Fused::Times(_), Some(other)) => Then::Times(other),
                (Fused::Plus(_), Some(other)) => Then::Plus(other),
                (Fused::Silu, _) => Then::Silu,
                _ => Then::Nothing,
            };
            let input = Input::new(x, norm, memory);
            let product = self.product(input.rows, then, result);
            // SAFETY: The work is made here; the first writes normed rows that the second reads, the second
            // the result, and both are nobody else's.
            unsafe { parallel::in_turn([&input, &product]) };
        }));
        result
    }

    /// Rows of inputs as they are read.
    pub(super) fn rows(self, x: &Tensor) -> Tensor {
        let x = x.contiguous();
        assert_eq!((x.kind(), x.dim(), x.size()[1]), (self.weight.packed.kind(), 2, self.weight.inputs));
        x
    }

    /// Memory for `[rows of x, outputs]`.
    pub(super) fn result(self, x: &Tensor) -> Tensor {
        x.new_empty([x.size()[0], self.weight.outputs], (x.kind(), x.device()))
    }

    pub(super) fn outputs(self) -> usize {
        self.weight.outputs as usize
    }

    /// The product of `[rows, inputs]`, `[rows, outputs]`.
    pub(super) fn product<T: Element>(
        self,
        x: Handover<'t, T>,
        then: Then<'t, T>,
        result: SharedMut<'t, T>,
    ) -> Product<'t, T> {
        let Panels { packed, outputs, inputs, instructions } = self.weight;
        // SAFETY: Nobody writes to weights.
        let (weight, bias) = unsafe { (elements(packed), self.bias.map(|bias| elements(bias))) };
        Product::new(*instructions, x, weight, bias, [*outputs as usize, *inputs as usize], then, result)
    }
}

/// Whether this kernel is faster than oneDNN's.
#[cfg(target_arch = "x86_64")]
fn is_faster(instructions: InstructionSet, kind: Kind) -> bool {
    match kind {
        Kind::Float => {
            matches!(instructions, InstructionSet::Avx512(_) | InstructionSet::Avx512Bf16(_))
        }
        // oneDNN knows AMX, which does many times more at once.
        Kind::BFloat16 => instructions.multiplies_bf16() && !has_amx(),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_faster(_: InstructionSet, _: Kind) -> bool {
    false
}

/// Whether the processor multiplies tiles of bf16.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    // Leaf 7, EDX: the standard library's name for it is not stable yet.
    const AMX_BF16: u32 = 1 << 22;
    std::arch::x86_64::__cpuid(0).eax >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16 != 0
}

/// Numbers that are neighbours.
fn neighbours(kind: Kind) -> i64 {
    if kind == Kind::BFloat16 { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::norm::rms_norm;
    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

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
                for panels in Panels::of_all_instructions(&weight) {
                    for fused in [Fused::Nothing, Fused::Silu, Fused::Times(&other), Fused::Plus(&other)] {
                        let expected = expected(&x, &weight, bias.as_ref(), fused);
                        let product = Biased { weight: &panels, bias: bias.as_ref() };
                        let found = product.forward(&x, None, fused);
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
    fn normed_rows_are_those_of_an_operation_of_its_own() {
        for (kind, rows, inputs, outputs) in [(Kind::Float, 1, 64, 96), (Kind::BFloat16, 60, 150, 70)] {
            let random = |shape: &[i64]| Tensor::randn(shape, CPU).to_kind(kind);
            let (x, weight, norm) =
                (random(&[rows, inputs]) * 3, random(&[outputs, inputs]), random(&[inputs]));
            let norm = RowNorm { weight: &norm, eps: 1e-5 };
            let normed = rms_norm(&x, norm);
            for weight in Panels::of_all_instructions(&weight) {
                let biased = Biased { weight: &weight, bias: None };
                let expected = biased.forward(&normed, None, Fused::Nothing);
                assert_eq!(biased.forward(&x, Some(norm), Fused::Nothing), expected, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, weight) =
                (Tensor::randn([43, 150], CPU).to_kind(kind), Tensor::randn([70, 150], CPU).to_kind(kind));
            for panels in Panels::of_all_instructions(&weight) {
                let forward =
                    |x: &Tensor| Biased { weight: &panels, bias: None }.forward(x, None, Fused::Silu);
                let together = forward(&x);
                for (first, count) in (0..43).flat_map(|first| [1, 2, 7, 13, 30].map(|count| (first, count)))
                {
                    if first + count <= 43 {
                        let apart = forward(&x.narrow(0, first, count));
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
        for panels in Panels::of_all_instructions(&one) {
            let found = Biased { weight: &panels, bias: None }.forward(&x, None, Fused::Silu);
            let error = ((found - x.silu()) / (x.abs() + 1e-30)).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{:?}: {error}", panels.instructions);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_memory_is_touched() {
        let random = |shape: &[i64]| Tensor::randn(shape, CPU);
        let (weight, x, other) = (random(&[40, 12]), random(&[3, 12]), random(&[3, 40]));
        let (bias, norm) = (random(&[40]), random(&[12]));
        for panels in Panels::of_all_instructions(&weight) {
            let refused = |x: &Tensor, bias: &Tensor, norm: &Tensor, other: &Tensor| {
                let norm = Some(RowNorm { weight: norm, eps: 1e-5 });
                let biased = Biased { weight: &panels, bias: Some(bias) };
                let product = || biased.forward(x, norm, Fused::Plus(other));
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(product)).is_err()
            };
            assert!(!refused(&x, &bias, &norm, &other));
            assert!(refused(&random(&[3, 11]), &bias, &norm, &other));
            assert!(refused(&x.to_kind(Kind::BFloat16), &bias, &norm, &other));
            assert!(refused(&x, &random(&[39]), &norm, &other));
            assert!(refused(&x, &bias.to_kind(Kind::Half), &norm, &other));
            assert!(refused(&x, &bias, &random(&[24]), &random(&[2, 40])));
            assert!(refused(&x, &bias, &random(&[5]), &other));
            assert!(refused(&x, &bias, &norm, &random(&[2, 40])));
            assert!(refused(&x, &bias, &norm, &other.to_kind(Kind::BFloat16)));
        }
    }
}
