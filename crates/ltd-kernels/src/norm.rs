//! Root-mean-square norm of rows.

use crate::element::Element;
use crate::memory::{Handover, Line, SharedMut};
use crate::threads::{Work, in_turn};
use crate::vector::{Instructions, Kernel, LANES, Vector, multiply_add, sum};
use crate::{Cpu, InstructionSet};

/// Numbers from which on the rows are shared among threads.
const WORTH_SHARING: usize = 1 << 15;

/// `x / rms(x) * weight`, row by row.
#[derive(Debug, Clone, Copy)]
pub struct RowNorm<'t, T> {
    /// `[width]`.
    pub weight: &'t [T],
    /// Added to the mean of the squares.
    pub eps: f32,
}

pub(crate) fn run<T: Element>(cpu: Cpu, x: &[T], norm: RowNorm<T>, result: &mut [T]) {
    let parts = if x.len() < WORTH_SHARING { 1 } else { cpu.threads.count() };
    // SAFETY: The work is made here; what it writes, the result, is nobody else's.
    unsafe { in_turn(cpu.threads, [&Norm::new(cpu, x, norm, SharedMut::of(result), parts)]) };
}

/// The rows that a product reads, normed before it if they are to be.
pub(crate) struct Input<'t, T> {
    pub(crate) rows: Handover<'t, T>,
    norm: Option<Norm<'t, T>>,
}

impl<'t, T: Element> Input<'t, T> {
    pub(crate) fn new(cpu: Cpu, x: &'t [T], norm: Option<RowNorm<'t, T>>, memory: &'t mut Vec<Line>) -> Self {
        let Some(norm) = norm else { return Self { rows: x.into(), norm: None } };
        let rows = SharedMut::new(memory, x.len());
        Self { rows: rows.into(), norm: Some(Norm::new(cpu, x, norm, rows, cpu.threads.count())) }
    }
}

impl<T: Element> Work for Input<'_, T> {
    fn items(&self) -> usize {
        self.norm.as_ref().map_or(0, Norm::items)
    }

    unsafe fn item(&self, item: usize, next: Option<usize>) {
        if let Some(norm) = &self.norm {
            // SAFETY: Items are those of the norm.
            unsafe { norm.item(item, next) };
        }
    }
}

/// Norms rows into other memory, in parts of equal size.
struct Norm<'t, T> {
    input: &'t [T],
    output: SharedMut<'t, T>,
    by: RowNorm<'t, T>,
    parts: usize,
    instructions: InstructionSet,
}

impl<'t, T: Element> Norm<'t, T> {
    fn new(cpu: Cpu, input: &'t [T], norm: RowNorm<'t, T>, output: SharedMut<'t, T>, parts: usize) -> Self {
        let (numbers, width) = (input.len(), norm.weight.len());
        assert!(width > 0 && numbers.is_multiple_of(width), "{numbers} numbers are no rows of {width}");
        assert_eq!(output.len(), numbers, "the result of a norm");
        Self { input, output, by: norm, parts, instructions: cpu.instructions }
    }
}

impl<T: Element> Work for Norm<'_, T> {
    fn items(&self) -> usize {
        self.parts
    }

    unsafe fn item(&self, part: usize, _: Option<usize>) {
        let Self { input, output, by: RowNorm { weight, eps }, parts, instructions } = *self;
        let (rows, width) = (input.len() / weight.len(), weight.len());
        for row in rows * part / parts..rows * (part + 1) / parts {
            let input = &input[row * width..][..width];
            // SAFETY: There are as many rows as of the input, and each is in one part.
            let output = unsafe { output.part(row * width, width) };
            instructions.run(NormRow { input, output, weight, eps });
        }
    }
}

/// One row, and where it goes.
struct NormRow<'r, T> {
    input: &'r [T],
    output: &'r mut [T],
    weight: &'r [T],
    eps: f32,
}

impl<T: Element> Kernel for NormRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let Self { input, output, weight, eps } = self;
        let factor = inverse_rms::<I, T>(input, eps);
        let normed = |input: &T, weight: &T| input.to_f32() * factor * weight.to_f32();
        let (inputs, rest) = input.as_chunks::<LANES>();
        let (weights, weights_of_rest) = weight.as_chunks::<LANES>();
        let (outputs, output_of_rest) = output.as_chunks_mut::<LANES>();
        for ((output, input), weight) in outputs.iter_mut().zip(inputs).zip(weights) {
            let mut values: Vector = [0.0; LANES];
            for ((value, input), weight) in values.iter_mut().zip(input).zip(weight) {
                *value = normed(input, weight);
            }
            *output = T::from_vector::<I>(values);
        }
        for ((output, input), weight) in output_of_rest.iter_mut().zip(rest).zip(weights_of_rest) {
            *output = T::from_f32(normed(input, weight));
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn inverse_rms<I: Instructions, T: Element>(input: &[T], eps: f32) -> f32 {
    let mut squares: Vector = [0.0; LANES];
    let chunks = input.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|value| value.to_f32() * value.to_f32()).sum();
    for chunk in chunks {
        for (square, value) in squares.iter_mut().zip(chunk) {
            *square = multiply_add::<I>(value.to_f32(), value.to_f32(), *square);
        }
    }
    1.0 / ((sum(squares) + rest) / input.len() as f32 + eps).sqrt()
}
