//! Products of small matrices, of which one is in vectors and the other one is read number by
//! number, as it stands in memory: nothing has to be packed first, and a lane's sum does not depend
//! on its neighbours.

use crate::element::Element;
use crate::memory::Pod;
use crate::vector::{Instructions, LANES, Vector, multiply_add};

/// Sums of products, one per lane.
pub(crate) trait Sums: Copy {
    /// Numbers that are multiplied.
    type Number: Element;
    /// What is multiplied at once, in four bytes: a number, or two of them whose products are
    /// added.
    type Unit: Pod;
    /// The same sums of the lower half of the lanes, and 0 in the upper one, where that takes half
    /// as long.
    type LowerHalf: Sums<Number = Self::Number, Unit = Self::Unit>;
    /// Numbers in a unit, 1 or 2.
    const NUMBERS: usize;
    /// Sums of which the registers hold so many vectors, and that hide the latency of an addition.
    const ROWS: usize;

    fn zero() -> Self;
    /// Adds the products of each lane's unit with the same one.
    fn add(self, lanes: &[Self::Unit; LANES], unit: Self::Unit) -> Self;
    fn get(self) -> Vector;
    /// The units of two vectors' numbers. Without pairs the second vector is left out.
    fn units(first: Vector, second: Vector) -> [Self::Unit; LANES];
    /// The unit of two numbers. Without pairs the second one is left out.
    fn unit(first: Self::Number, second: Self::Number) -> Self::Unit;
}

/// `results[row] = sum over steps of units[row * strides[0] + step * strides[1]] * lanes[step]`,
/// lane by lane.
#[inline(always)]
pub(crate) fn product<S: Sums>(
    units: &[S::Unit],
    strides: [usize; 2],
    lanes: &[[S::Unit; LANES]],
    results: &mut [Vector],
) {
    match S::ROWS {
        8 => blocks::<S, 8>(units, strides, lanes, results),
        4 => blocks::<S, 4>(units, strides, lanes, results),
        _ => blocks::<S, 2>(units, strides, lanes, results),
    }
}

#[inline(always)]
fn blocks<S: Sums, const ROWS: usize>(
    units: &[S::Unit],
    strides: [usize; 2],
    lanes: &[[S::Unit; LANES]],
    results: &mut [Vector],
) {
    let rows = results.len();
    assert!((rows.max(1) - 1) * strides[0] + (lanes.len().max(1) - 1) * strides[1] < units.len());
    if rows < ROWS {
        for row in 0..rows {
            // SAFETY: The last row and step that are read are there, as was just checked, and `row`
            // is one of the results.
            unsafe { block::<S, 1>(row, units, strides, lanes, results) };
        }
        return;
    }
    for row in (0..rows).step_by(ROWS) {
        // The last block does rows of the one before it again, rather than fewer.
        // SAFETY: As above: no block reaches beyond the results.
        unsafe { block::<S, ROWS>(row.min(rows - ROWS), units, strides, lanes, results) };
    }
}

/// Some rows of a product.
///
/// # Safety
/// `results` must have the rows `first..first + ROWS`, and `units` those rows with as many steps as
/// there are `lanes`.
#[inline(always)]
unsafe fn block<S: Sums, const ROWS: usize>(
    first: usize,
    units: &[S::Unit],
    [row_stride, step_stride]: [usize; 2],
    lanes: &[[S::Unit; LANES]],
    results: &mut [Vector],
) {
    let mut sums = [S::zero(); ROWS];
    for (step, lanes) in lanes.iter().enumerate() {
        for (row, sum) in (first..).zip(&mut sums) {
            // SAFETY: `units` has this row and step.
            *sum = sum.add(lanes, unsafe { *units.get_unchecked(row * row_stride + step * step_stride) });
        }
    }
    for (row, sum) in (first..).zip(sums) {
        // SAFETY: `results` has this row.
        unsafe { *results.get_unchecked_mut(row) = sum.get() };
    }
}

/// Sums in f32 that the compiler turns into vectors.
#[derive(Clone, Copy)]
pub(crate) struct Plain<I> {
    sums: Vector,
    instructions: std::marker::PhantomData<I>,
}

impl<I: Instructions> Sums for Plain<I> {
    type Number = f32;
    type Unit = f32;
    type LowerHalf = Self;
    const NUMBERS: usize = 1;
    const ROWS: usize = if I::FUSED { 4 } else { 2 };

    #[inline(always)]
    fn zero() -> Self {
        Self { sums: [0.0; LANES], instructions: std::marker::PhantomData }
    }

    #[inline(always)]
    fn add(mut self, lanes: &[f32; LANES], unit: f32) -> Self {
        for (sum, lane) in self.sums.iter_mut().zip(lanes) {
            *sum = multiply_add::<I>(*lane, unit, *sum);
        }
        self
    }

    #[inline(always)]
    fn get(self) -> Vector {
        self.sums
    }

    #[inline(always)]
    fn units(first: Vector, _: Vector) -> Vector {
        first
    }

    #[inline(always)]
    fn unit(first: f32, _: f32) -> f32 {
        first
    }
}
