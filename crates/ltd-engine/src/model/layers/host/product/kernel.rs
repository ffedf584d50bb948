//! A panel's product with some rows.

use std::any::TypeId;

use tch::Tensor;

use super::super::element::Element;
use super::super::memory::Handover;
use super::super::parallel::Work;
use super::super::simd::{InstructionSet, Instructions, Kernel, LANES, Vector, dispatch_to};
use super::super::sums::Sums;

/// Vectors of outputs in a panel.
pub(super) const VECTORS: usize = 2;
/// Outputs in a panel.
pub(in super::super) const PANEL: usize = VECTORS * LANES;
/// Rows whose sums fit in the registers of AVX-512, beside what is multiplied.
const ROWS: usize = 12;

/// Rows of a part for each thread that memory is shared with: with fewer, to read a panel once more would take longer than
/// what it saves (measured with two threads).
const ROWS_PER_THREAD: usize = 8;

/// A weight in panels and rows that are multiplied with it; an item is a panel and a part of the rows.
#[derive(Clone, Copy)]
pub(in super::super) struct Product<'t, T> {
    /// `[rows, inputs]`.
    pub(in super::super) x: Handover<T>,
    pub(in super::super) weight: &'t [T],
    /// `[outputs]`.
    pub(in super::super) bias: Option<&'t [T]>,
    pub(in super::super) inputs: usize,
    pub(in super::super) outputs: usize,
    pub(in super::super) instructions: InstructionSet,
    pub(in super::super) then: Then,
    /// Parts of the rows. Many rows take long enough for a thread to read panels that others read, too, and what it then
    /// goes on with is its own.
    pub(in super::super) parts: usize,
    /// Of which no two items write the same part.
    pub(in super::super) result: Columns,
}

impl<T: Element> Work for Product<'_, T> {
    fn items(&self) -> usize {
        self.panels() * self.parts
    }

    fn item(&self, item: usize, next: Option<usize>) {
        self.multiply(item, self.panel(next));
    }
}

/// What is done with sums.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Then {
    Nothing,
    Silu,
    Times(Columns),
    Plus(Columns),
}

/// Rows of numbers in the memory of somebody else, who sees to it that it is there.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Columns {
    address: usize,
    pub(super) rows: usize,
    /// Numbers from a row to the next one.
    row: usize,
    /// Numbers from a panel's first column to that of the next one.
    panel: usize,
}

impl Columns {
    /// All columns of `[rows, outputs]`.
    pub(in super::super) fn of(tensor: &Tensor) -> Self {
        assert!(tensor.is_contiguous());
        let (address, [rows, row]) = (tensor.data_ptr() as usize, [0, 1].map(|i| tensor.size()[i] as usize));
        Self { address, rows, row, panel: PANEL }
    }

    /// All columns of `[rows, outputs]` that other work reads afterwards.
    pub(in super::super) fn of_rows<T: Element>(rows: Handover<T>, outputs: usize) -> Self {
        Self { address: rows.start() as usize, rows: rows.len() / outputs, row: outputs, panel: PANEL }
    }

    /// The columns of whatever panel is at hand, `[rows, PANEL]`.
    pub(in super::super) fn of_panel<T: Element>(rows: Handover<T>) -> Self {
        Self { address: rows.start() as usize, rows: rows.len() / PANEL, row: PANEL, panel: 0 }
    }

    /// Where the columns of a panel's vector are in a row.
    #[inline(always)]
    unsafe fn at<T: Element>(self, row: usize, panel: usize, vector: usize) -> *mut T {
        unsafe { (self.address as *mut T).add(row * self.row + panel * self.panel + vector * LANES) }
    }
}

impl<'t, T: Element> Product<'t, T> {
    /// Parts of so many rows for so many threads.
    pub(in super::super) fn parts(rows: usize, threads: usize) -> usize {
        (rows / (ROWS_PER_THREAD * threads)).clamp(1, threads)
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The panel of an item.
    pub(in super::super) fn panel(&self, item: Option<usize>) -> &'t [T] {
        let Some(item) = item else { return &[] };
        let size = self.inputs * PANEL;
        &self.weight[item % self.panels() * size..][..size]
    }

    /// Does an item, and fetches what is read next.
    pub(in super::super) fn multiply(&self, item: usize, next: &[T]) {
        dispatch_to(self.instructions, &Multiplication { product: self, next }, item);
    }
}

/// An item of a product, and the panel that its thread probably reads next.
struct Multiplication<'p, 't, T> {
    product: &'p Product<'t, T>,
    next: &'p [T],
}

impl<T: Element> Kernel for Multiplication<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, item: usize) {
        let Self { product, next } = self;
        let (part, panel) = (item / product.panels(), item % product.panels());
        let rows = product.x.len() / product.inputs;
        let [start, end] = [part, part + 1].map(|part| rows * part / product.parts);
        // Blocks of equal size: a small one at the end would wait for its few sums.
        let blocks = (end - start).div_ceil(ROWS);
        let size = (end - start).div_ceil(blocks.max(1));
        for (block, first) in (start..end).step_by(size.max(1)).enumerate() {
            let next = to_fetch(next, blocks - block, blocks);
            match size.min(end - first) {
                1 => product.tile::<I, 1>(panel, first, next),
                2 => product.tile::<I, 2>(panel, first, next),
                3 => product.tile::<I, 3>(panel, first, next),
                4 => product.tile::<I, 4>(panel, first, next),
                5 => product.tile::<I, 5>(panel, first, next),
                6 => product.tile::<I, 6>(panel, first, next),
                7 => product.tile::<I, 7>(panel, first, next),
                8 => product.tile::<I, 8>(panel, first, next),
                9 => product.tile::<I, 9>(panel, first, next),
                10 => product.tile::<I, 10>(panel, first, next),
                11 => product.tile::<I, 11>(panel, first, next),
                _ => product.tile::<I, ROWS>(panel, first, next),
            }
        }
    }
}

/// What of its next panel a thread fetches into the cache while it multiplies a block of rows: memory would be idle while
/// the blocks after the first multiply what is in the cache. With one block all of it, else a half in each of the last two.
#[inline(always)]
fn to_fetch<T>(next: &[T], blocks_left: usize, blocks: usize) -> &[T] {
    let (first, second) = next.split_at(next.len() / 2);
    match blocks_left {
        1 if blocks == 1 => next,
        1 => second,
        2 => first,
        _ => &[],
    }
}

impl<T: Element> Product<'_, T> {
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
        let rows = unsafe { &self.x.read()[first * self.inputs..][..COUNT * self.inputs] };
        let stride = size_of_val(next) / steps;
        let next: *const u8 = next.as_ptr().cast();
        let mut sums = [[T::Sums::<I>::zero(); VECTORS]; COUNT];
        unsafe {
            let weight: *const [[Unit<T, I>; LANES]; VECTORS] = weight.as_ptr().cast();
            // Where each row is: found in the loop, this made the compiler run out of registers at eleven and twelve rows.
            let mut units = [rows.as_ptr().cast::<Unit<T, I>>(); COUNT];
            for (row, units) in units.iter_mut().enumerate() {
                *units = units.add(row * steps);
            }
            for step in 0..steps {
                let lanes = &*weight.add(step);
                // The same line twice, where a step fetches one or none.
                I::fetch(next.wrapping_add(step * stride));
                I::fetch(next.wrapping_add(step * stride + stride / 2));
                for (units, sums) in units.iter().zip(&mut sums) {
                    let unit = *units.add(step);
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
                    self.finish::<I>(row, panel, vector, sum.get());
                }
            }
        }
    }

    /// Does what is to be done with a vector of sums, and stores it.
    #[inline(always)]
    fn finish<I: Instructions>(&self, row: usize, panel: usize, part: usize, sums: Vector) {
        let column = panel * PANEL + part * LANES;
        let count = LANES.min(self.outputs - column);
        let other = |columns: Columns| {
            vector::<T>(unsafe { std::slice::from_raw_parts(columns.at(row, panel, part), count) })
        };
        let mut values = sums;
        if let Some(bias) = self.bias {
            values = add(values, vector(&bias[column..][..count]));
        }
        match self.then {
            Then::Nothing => {}
            Then::Silu => values = silu::<I>(values),
            Then::Times(columns) => values = I::multiply(values, other(columns)),
            Then::Plus(columns) => values = add(values, other(columns)),
        }
        let rounded = T::from_vector::<I>(values);
        let output = unsafe { std::slice::from_raw_parts_mut(self.result.at(row, panel, part), count) };
        match output.first_chunk_mut() {
            Some(output) => *output = rounded,
            None => output.copy_from_slice(&rounded[..count]),
        }
    }
}

#[inline(always)]
fn add(a: Vector, b: Vector) -> Vector {
    let mut sum = a;
    for (a, b) in sum.iter_mut().zip(b) {
        *a += b;
    }
    sum
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
    use super::*;

    #[test]
    fn rows_are_divided_where_there_are_many_for_each_thread() {
        for (rows, threads, parts) in
            [(0, 1, 1), (128, 1, 1), (31, 2, 1), (32, 2, 2), (1000, 2, 2), (128, 8, 2), (128, 64, 1)]
        {
            assert_eq!(Product::<f32>::parts(rows, threads), parts, "{rows} rows, {threads} threads");
        }
    }
}
