//! A panel's product with some rows.

use std::any::TypeId;

use super::super::InstructionSet;
use super::super::element::Element;
use super::super::memory::{Handover, SharedMut, cast};
use super::super::parallel::{self, Work};
use super::super::simd::{Instructions, Kernel, LANES, Vector};
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
///
/// Always so, as it is checked when one is made: `x` has `rows * inputs` numbers, `weight` has
/// `panels * inputs * PANEL`, `bias` has `outputs`, and the result, and what is done with it, `rows` rows of
/// `outputs` columns or of a panel's.
#[derive(Clone, Copy)]
pub(in super::super) struct Product<'t, T> {
    /// `[rows, inputs]`.
    x: Handover<'t, T>,
    weight: &'t [T],
    /// `[outputs]`.
    bias: Option<&'t [T]>,
    rows: usize,
    inputs: usize,
    outputs: usize,
    instructions: InstructionSet,
    then: Then<'t, T>,
    /// Parts of the rows. Many rows take long enough for a thread to read panels that others read, too, and what it then
    /// goes on with is its own.
    parts: usize,
    /// Of which no two items write the same part.
    result: Columns<SharedMut<'t, T>>,
}

impl<T: Element> Work for Product<'_, T> {
    fn items(&self) -> usize {
        self.panels() * self.parts
    }

    unsafe fn item(&self, item: usize, next: Option<usize>) {
        // SAFETY: What this asks for is what `multiply` does.
        unsafe { self.multiply(item, self.panel(next)) };
    }
}

/// What is done with sums.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Then<'t, T> {
    Nothing,
    Silu,
    Times(Columns<Handover<'t, T>>),
    Plus(Columns<Handover<'t, T>>),
}

/// Rows of numbers, of which each panel has its columns.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Columns<N> {
    numbers: N,
    /// Numbers from a row to the next one.
    row: usize,
    /// Numbers from a panel's first column to that of the next one.
    panel: usize,
}

impl<N> Columns<N> {
    /// All columns of `[rows, outputs]`.
    pub(in super::super) fn of(numbers: N, outputs: usize) -> Self {
        Self { numbers, row: outputs, panel: PANEL }
    }

    /// The columns of whatever panel is at hand, `[rows, PANEL]`.
    pub(in super::super) fn of_panel(numbers: N) -> Self {
        Self { numbers, row: PANEL, panel: 0 }
    }

    /// Fails unless these are columns of `rows` rows of `outputs` outputs, `len` numbers in all.
    fn check(&self, len: usize, rows: usize, outputs: usize) {
        let width = if self.panel == 0 { PANEL } else { outputs };
        assert_eq!((self.row, Some(len)), (width, rows.checked_mul(width)), "{rows} rows of {outputs}");
    }

    /// Where the columns of a panel's vector begin in a row.
    #[inline(always)]
    fn place(&self, row: usize, panel: usize, vector: usize) -> usize {
        row * self.row + panel * self.panel + vector * LANES
    }
}

impl<'t, T: Element> Product<'t, T> {
    /// The product of a packed weight of the shape `[outputs, inputs]`.
    pub(super) fn new(
        instructions: InstructionSet,
        x: Handover<'t, T>,
        weight: &'t [T],
        bias: Option<&'t [T]>,
        [outputs, inputs]: [usize; 2],
        then: Then<'t, T>,
        result: SharedMut<'t, T>,
    ) -> Self {
        let panels = outputs.div_ceil(PANEL);
        assert!(inputs > 0 && weight.len() == panels * inputs * PANEL, "a weight of {outputs} x {inputs}");
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias of {outputs}");
        let rows = x.len() / inputs;
        assert_eq!(x.len(), rows * inputs, "rows of {inputs}");
        let parts = Self::parts(rows, parallel::threads());
        let result = Columns::of(result, outputs);
        result.check(result.numbers.len(), rows, outputs);
        let product =
            Self { x, weight, bias, rows, inputs, outputs, instructions, then: Then::Nothing, parts, result };
        product.with(then)
    }

    /// The same product, with which something else is done.
    pub(in super::super) fn with<'o>(&self, then: Then<'o, T>) -> Product<'o, T>
    where
        't: 'o,
    {
        if let Then::Times(columns) | Then::Plus(columns) = &then {
            columns.check(columns.numbers.len(), self.rows, self.outputs);
        }
        Product { then, ..*self }
    }

    /// The same product, of which each panel is written to `[rows, PANEL]`: for one item at a time.
    pub(in super::super) fn in_panel<'o>(&self, result: SharedMut<'o, T>) -> Product<'o, T>
    where
        't: 'o,
    {
        let result = Columns::of_panel(result);
        result.check(result.numbers.len(), self.rows, self.outputs);
        Product { result, ..*self }
    }

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
    ///
    /// # Safety
    /// As for [`Work::item`]: nobody else may do the item, and what the product reads must have been written.
    pub(in super::super) unsafe fn multiply(&self, item: usize, next: &[T]) {
        let (part, panel) = (item / self.panels(), item % self.panels());
        assert!(part < self.parts, "item {item}");
        // SAFETY: Nobody writes to the rows any more.
        let x = unsafe { self.x.read() };
        self.instructions.run(Multiplication { product: self, x, part, panel, next });
    }
}

/// An item of a product, which its thread may write (only [`Product::multiply`] makes one), and the panel
/// that its thread probably reads next.
struct Multiplication<'p, 't, T> {
    product: &'p Product<'t, T>,
    x: &'p [T],
    part: usize,
    panel: usize,
    next: &'p [T],
}

impl<T: Element> Kernel for Multiplication<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let Self { product, part, next, .. } = self;
        let [start, end] = [part, part + 1].map(|part| product.rows * part / product.parts);
        // Blocks of equal size: a small one at the end would wait for its few sums.
        let blocks = (end - start).div_ceil(ROWS);
        let size = (end - start).div_ceil(blocks.max(1));
        for (block, first) in (start..end).step_by(size.max(1)).enumerate() {
            let next = to_fetch(next, blocks - block, blocks);
            match size.min(end - first) {
                1 => self.tile::<I, 1>(first, next),
                2 => self.tile::<I, 2>(first, next),
                3 => self.tile::<I, 3>(first, next),
                4 => self.tile::<I, 4>(first, next),
                5 => self.tile::<I, 5>(first, next),
                6 => self.tile::<I, 6>(first, next),
                7 => self.tile::<I, 7>(first, next),
                8 => self.tile::<I, 8>(first, next),
                9 => self.tile::<I, 9>(first, next),
                10 => self.tile::<I, 10>(first, next),
                11 => self.tile::<I, 11>(first, next),
                _ => self.tile::<I, ROWS>(first, next),
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

impl<T: Element> Multiplication<'_, '_, T> {
    /// The panel's products with some rows of the part; fetches `next` meanwhile.
    #[inline(always)]
    fn tile<I: Instructions, const COUNT: usize>(&self, first: usize, next: &[T]) {
        type Unit<T, I> = <<T as Element>::Sums<I> as Sums>::Unit;
        let Self { product, x, panel, .. } = *self;
        assert!(
            TypeId::of::<T>() == TypeId::of::<<T::Sums<I> as Sums>::Number>(),
            "weights are packed for instructions that read them"
        );
        let steps = product.inputs / T::Sums::<I>::NUMBERS;
        let size = product.inputs * PANEL;
        let weight: &[[[Unit<T, I>; LANES]; VECTORS]] = cast(&product.weight[panel * size..][..size]);
        let rows: &[Unit<T, I>] = cast(&x[first * product.inputs..][..COUNT * product.inputs]);
        assert!(weight.len() == steps && rows.len() == COUNT * steps, "inputs are whole units");
        let stride = size_of_val(next) / steps;
        let next: *const u8 = next.as_ptr().cast();
        let mut sums = [[T::Sums::<I>::zero(); VECTORS]; COUNT];
        // SAFETY: `weight` has `steps` elements and `rows` has `COUNT` times as many: pointers stay inside of
        // them, and what is read is before their ends.
        unsafe {
            let weight = weight.as_ptr();
            // Where each row is: found in the loop, this made the compiler run out of registers at eleven and twelve rows.
            let mut units = [rows.as_ptr(); COUNT];
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
                if column < product.outputs {
                    self.finish::<I>(row, vector, sum.get());
                }
            }
        }
    }

    /// Does what is to be done with a vector of sums, and stores it.
    #[inline(always)]
    fn finish<I: Instructions>(&self, row: usize, part: usize, sums: Vector) {
        let Self { product, panel, .. } = *self;
        let column = panel * PANEL + part * LANES;
        let count = LANES.min(product.outputs - column);
        let other = |columns: Columns<Handover<T>>| {
            // SAFETY: The row is one of the rows, and the columns are some of its columns, which nobody
            // writes to any more.
            vector::<T>(unsafe { columns.numbers.part(columns.place(row, panel, part), count) })
        };
        let mut values = sums;
        if let Some(bias) = product.bias {
            values = add(values, vector(&bias[column..][..count]));
        }
        match product.then {
            Then::Nothing => {}
            Then::Silu => values = silu::<I>(values),
            Then::Times(columns) => values = I::multiply(values, other(columns)),
            Then::Plus(columns) => values = add(values, other(columns)),
        }
        let rounded = T::from_vector::<I>(values);
        // SAFETY: As above; the row is of this item's part and the columns are of its panel: they are this
        // thread's own.
        let output = unsafe { product.result.numbers.part(product.result.place(row, panel, part), count) };
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
