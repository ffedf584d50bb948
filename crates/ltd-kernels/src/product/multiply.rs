//! A panel's product with some rows.

use std::any::TypeId;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::panels::{PanelSums, Panels};
use crate::element::Element;
use crate::memory::{Handover, Line, SharedMut, cast, lines};
use crate::threads::Work;
use crate::vector::{Instructions, Kernel, LANES, Vector};
use crate::{Cpu, InstructionSet};

/// Rows of a part for each thread that memory is shared with: with fewer, to read a panel once more
/// would take longer than what it saves (measured with two threads).
const ROWS_PER_THREAD: usize = 8;

thread_local! {
    /// Taken out rather than borrowed: a closure handed to `with_borrow_mut` is compiled without
    /// the kernel's instructions.
    static WIDENED: Cell<Widened> = Cell::default();
}

/// The rows of one or more products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'t, T> {
    rows: Handover<'t, T>,
    /// Tells these rows from those of other operations.
    number: u64,
}

impl<'t, T> Inputs<'t, T> {
    pub(crate) fn new(rows: Handover<'t, T>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self { rows, number: COUNT.fetch_add(1, Ordering::Relaxed) }
    }
}

/// A weight in panels and rows that are multiplied with it; an item is a panel and a part of the
/// rows.
///
/// Always so, as it is checked when one is made: `x` has `rows * inputs` numbers, `weight` has
/// `panels * inputs * panel`, `bias` has `outputs`, and the result, and what is done with it,
/// `rows` rows of `outputs` columns or of a panel's.
#[derive(Clone, Copy)]
pub(crate) struct Product<'t, T> {
    /// `[rows, inputs]`.
    x: Inputs<'t, T>,
    weight: &'t [T],
    /// Outputs of a panel.
    panel: usize,
    /// `[outputs]`.
    bias: Option<&'t [T]>,
    rows: usize,
    inputs: usize,
    outputs: usize,
    instructions: InstructionSet,
    then: Then<'t, T>,
    /// Parts of the rows. Many rows take long enough for a thread to read panels that others read,
    /// too, and what it then goes on with is its own.
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

    fn reads(&self, item: usize) -> &[u8] {
        cast(self.panel(Some(item)))
    }
}

/// What is done with sums.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then<'t, T> {
    Nothing,
    Silu,
    Times(Columns<Handover<'t, T>>),
    Plus(Columns<Handover<'t, T>>),
}

/// Rows of numbers, of which each panel has its columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns<N> {
    numbers: N,
    /// Numbers from a row to the next one.
    row: usize,
    /// Those of all panels are there, not of one at a time.
    all: bool,
}

impl<N> Columns<N> {
    /// All columns of `[rows, outputs]`.
    pub(crate) fn of(numbers: N, outputs: usize) -> Self {
        Self { numbers, row: outputs, all: true }
    }

    /// The columns of whatever panel is at hand, `[rows, outputs of a panel]`.
    pub(crate) fn of_panel(numbers: N, panel: usize) -> Self {
        Self { numbers, row: panel, all: false }
    }

    /// Fails unless these are columns of `rows` rows of `outputs` outputs in panels, `len` numbers
    /// in all.
    fn check(&self, len: usize, rows: usize, outputs: usize, panel: usize) {
        let width = if self.all { outputs } else { panel };
        assert_eq!((self.row, Some(len)), (width, rows.checked_mul(width)), "{rows} rows of {outputs}");
    }

    /// Where a panel's columns from `first` on begin in a row.
    #[inline(always)]
    fn place(&self, row: usize, panel_start: usize, first: usize) -> usize {
        row * self.row + if self.all { panel_start } else { 0 } + first
    }
}

impl<'t, T: Element> Product<'t, T> {
    pub(super) fn new(
        cpu: Cpu,
        x: Inputs<'t, T>,
        weight: &'t Panels<T>,
        bias: Option<&'t [T]>,
        then: Then<'t, T>,
        result: SharedMut<'t, T>,
    ) -> Self {
        let (outputs, inputs, panel) = (weight.outputs(), weight.inputs(), weight.panel());
        let (instructions, weight) = (weight.instructions(), weight.packed());
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias of {outputs}");
        let rows = x.rows.len() / inputs;
        assert_eq!(x.rows.len(), rows * inputs, "rows of {inputs}");
        let parts = parts(rows, cpu.threads.count());
        let result = Columns::of(result, outputs);
        result.check(result.numbers.len(), rows, outputs, panel);
        let product = Self {
            x,
            weight,
            panel,
            bias,
            rows,
            inputs,
            outputs,
            instructions,
            then: Then::Nothing,
            parts,
            result,
        };
        product.with(then)
    }

    /// The same product, with which something else is done.
    pub(crate) fn with<'o>(&self, then: Then<'o, T>) -> Product<'o, T>
    where
        't: 'o,
    {
        if let Then::Times(columns) | Then::Plus(columns) = &then {
            columns.check(columns.numbers.len(), self.rows, self.outputs, self.panel);
        }
        Product { then, ..*self }
    }

    /// The same product, of which each panel is written to `[rows, outputs of a panel]`: for one
    /// item at a time.
    pub(crate) fn in_panel<'o>(&self, result: SharedMut<'o, T>) -> Product<'o, T>
    where
        't: 'o,
    {
        let result = Columns::of_panel(result, self.panel);
        result.check(result.numbers.len(), self.rows, self.outputs, self.panel);
        Product { result, ..*self }
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(self.panel)
    }

    /// Outputs of a panel.
    pub(crate) fn panel_outputs(&self) -> usize {
        self.panel
    }

    /// The panel of an item.
    pub(crate) fn panel(&self, item: Option<usize>) -> &'t [T] {
        let Some(item) = item else { return &[] };
        let size = self.inputs * self.panel;
        &self.weight[item % self.panels() * size..][..size]
    }

    /// Does an item, and fetches what is read next.
    ///
    /// # Safety
    /// As for [`Work::item`]: nobody else may do the item, and what the product reads must have
    /// been written.
    pub(crate) unsafe fn multiply(&self, item: usize, next: &[T]) {
        let (part, panel) = (item / self.panels(), item % self.panels());
        assert!(part < self.parts, "item {item}");
        // SAFETY: Nobody writes to the rows any more.
        let x = unsafe { self.x.rows.read() };
        self.instructions.run(Multiplication { product: self, x, part, panel, next });
    }
}

/// What a weight gives in one step.
type Step<T, I> = <<T as Element>::Panel<I> as PanelSums>::Step;

/// Parts of so many rows for so many threads.
fn parts(rows: usize, threads: usize) -> usize {
    (rows / (ROWS_PER_THREAD * threads)).clamp(1, threads)
}

/// An item of a product, which its thread may write (only [`Product::multiply`] makes one), and the
/// panel that its thread probably reads next.
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
        let Self { product, x, part, next, .. } = self;
        let [start, end] = [part, part + 1].map(|part| product.rows * part / product.parts);
        let mut widened = WIDENED.take();
        let rows = &x[start * product.inputs..end * product.inputs];
        let units = widened.units::<I, T>((product.x.number, part), rows);
        // Blocks of equal size: a small one at the end would wait for its few sums.
        let blocks = (end - start).div_ceil(T::Panel::<I>::ROWS);
        let size = (end - start).div_ceil(blocks.max(1));
        let units_of_row = product.inputs / T::Panel::<I>::NUMBERS;
        for (block, first) in (start..end).step_by(size.max(1)).enumerate() {
            let next = to_fetch(next, blocks - block, blocks);
            let units = &units[(first - start) * units_of_row..];
            match size.min(end - first) {
                1 if T::Panel::<I>::ROWS >= 1 => self.tile::<I, 1>(first, units, next),
                2 if T::Panel::<I>::ROWS >= 2 => self.tile::<I, 2>(first, units, next),
                3 if T::Panel::<I>::ROWS >= 3 => self.tile::<I, 3>(first, units, next),
                4 if T::Panel::<I>::ROWS >= 4 => self.tile::<I, 4>(first, units, next),
                5 if T::Panel::<I>::ROWS >= 5 => self.tile::<I, 5>(first, units, next),
                6 if T::Panel::<I>::ROWS >= 6 => self.tile::<I, 6>(first, units, next),
                7 if T::Panel::<I>::ROWS >= 7 => self.tile::<I, 7>(first, units, next),
                8 if T::Panel::<I>::ROWS >= 8 => self.tile::<I, 8>(first, units, next),
                9 if T::Panel::<I>::ROWS >= 9 => self.tile::<I, 9>(first, units, next),
                10 if T::Panel::<I>::ROWS >= 10 => self.tile::<I, 10>(first, units, next),
                11 if T::Panel::<I>::ROWS >= 11 => self.tile::<I, 11>(first, units, next),
                12 => self.tile::<I, 12>(first, units, next),
                rows => unreachable!("invariant: a block has at most 12 rows, not {rows}"),
            }
        }
        WIDENED.set(widened);
    }
}

/// The rows of a part as f32, where they are of another type and are not multiplied as they are:
/// made by each thread for itself, when it comes to them first.
#[derive(Default)]
struct Widened {
    /// Number of the inputs, and the part.
    of: Option<(u64, usize)>,
    memory: Vec<Line>,
}

/// What a row gives in one step.
type Unit<T, I> = <<T as Element>::Panel<I> as PanelSums>::Unit;

impl Widened {
    /// The units of rows, which `of` tells from others.
    #[inline(always)]
    fn units<'u, I: Instructions, T: Element>(
        &'u mut self,
        of: (u64, usize),
        rows: &'u [T],
    ) -> &'u [Unit<T, I>] {
        if TypeId::of::<Unit<T, I>>() != TypeId::of::<f32>() || TypeId::of::<T>() == TypeId::of::<f32>() {
            return cast(rows);
        }
        let widened = lines::<f32>(&mut self.memory, rows.len().div_ceil(LANES)).as_flattened_mut();
        if self.of.replace(of) != Some(of) {
            for (widened, number) in widened.iter_mut().zip(rows) {
                *widened = number.to_f32();
            }
        }
        cast(&widened[..rows.len()])
    }
}

/// What of its next panel a thread fetches into the cache while it multiplies a block of rows:
/// memory would be idle while the blocks after the first multiply what is in the cache. With one
/// block all of it, else a half in each of the last two.
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
    /// The panel's products with the rows from `first` on, whose `units` are given; fetches `next`
    /// meanwhile.
    #[inline(always)]
    fn tile<I: Instructions, const COUNT: usize>(&self, first: usize, units: &[Unit<T, I>], next: &[T]) {
        let Self { product, panel, .. } = *self;
        let steps = product.inputs / T::Panel::<I>::NUMBERS;
        let size = product.inputs * product.panel;
        let weight: &[Step<T, I>] = cast(&product.weight[panel * size..][..size]);
        let rows = &units[..COUNT * steps];
        assert!(weight.len() == steps, "a weight is packed for the instructions that multiply it");
        let mut sums = [T::Panel::<I>::zero(); COUNT];
        let groups = steps / T::Panel::<I>::STEPS;
        // Bytes to fetch for each group of steps.
        let stride = size_of_val(next) / groups.max(1);
        let next: *const u8 = next.as_ptr().cast();
        // SAFETY: `weight` has `steps` elements and `rows` has `COUNT` times as many: pointers stay
        // inside of them, and what is read is before their ends.
        unsafe {
            let weight = weight.as_ptr();
            // Where each row is: found in the loop, this made the compiler run out of registers at
            // eleven and twelve rows.
            let mut units = [rows.as_ptr(); COUNT];
            for (row, units) in units.iter_mut().enumerate() {
                *units = units.add(row * steps);
            }
            for group in 0..groups {
                // The same line twice, where a group fetches one or none.
                I::fetch(next.wrapping_add(group * stride));
                I::fetch(next.wrapping_add(group * stride + stride / 2));
                for step in 0..T::Panel::<I>::STEPS {
                    let step = group * T::Panel::<I>::STEPS + step;
                    let lanes = T::Panel::<I>::lanes(&*weight.add(step));
                    for (units, sum) in units.iter().zip(&mut sums) {
                        *sum = sum.add(lanes, *units.add(step));
                    }
                }
            }
            for step in groups * T::Panel::<I>::STEPS..steps {
                let lanes = T::Panel::<I>::lanes(&*weight.add(step));
                for (units, sum) in units.iter().zip(&mut sums) {
                    *sum = sum.add(lanes, *units.add(step));
                }
            }
        }
        let vectors = T::Panel::<I>::OUTPUTS / LANES;
        for (row, sums) in (first..).zip(sums) {
            for vector in 0..vectors {
                if panel * product.panel + vector * LANES < product.outputs {
                    self.finish::<I>(row, vector * LANES, sums.vector(vector));
                }
            }
        }
    }

    /// Does what is to be done with a vector of sums, of a panel's outputs from `first` on, and
    /// stores it.
    #[inline(always)]
    fn finish<I: Instructions>(&self, row: usize, first: usize, sums: Vector) {
        let Self { product, panel, .. } = *self;
        let panel_start = panel * product.panel;
        let column = panel_start + first;
        let count = LANES.min(product.outputs - column);
        let other = |columns: Columns<Handover<T>>| {
            // SAFETY: The row is one of the rows, and the columns are some of its columns, which
            // nobody writes to any more.
            vector::<T>(unsafe { columns.numbers.part(columns.place(row, panel_start, first), count) })
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
        // SAFETY: As above; the row is of this item's part and the columns are of its panel: they
        // are this thread's own.
        let output =
            unsafe { product.result.numbers.part(product.result.place(row, panel_start, first), count) };
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
    #[test]
    fn rows_are_divided_where_there_are_many_for_each_thread() {
        for (rows, threads, parts) in
            [(0, 1, 1), (128, 1, 1), (31, 2, 1), (32, 2, 2), (1000, 2, 2), (128, 8, 2), (128, 64, 1)]
        {
            assert_eq!(super::parts(rows, threads), parts, "{rows} rows, {threads} threads");
        }
    }
}
