//! Root-mean-square norm of rows.

use tch::Tensor;

use super::element::{Element, with_element};
use super::memory::{Handover, Line, SharedMut};
use super::parallel::Work;
use super::simd::{Instructions, Kernel, LANES, Vector, multiply_add, sum};
use super::{InstructionSet, elements, elements_mut, parallel};

/// Numbers from which on the rows are shared among threads.
const WORTH_SHARING: usize = 1 << 15;

/// `x / rms(x) * weight`, row by row.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct RowNorm<'t> {
    /// `[width]`, of x's type.
    pub(in super::super) weight: &'t Tensor,
    pub(in super::super) eps: f32,
}

/// Norms each row, `[n, width] -> [n, width]`.
pub(in super::super) fn rms_norm(x: &Tensor, norm: RowNorm) -> Tensor {
    let x = x.contiguous();
    let result = x.empty_like();
    with_element!(x.kind(), T => {
        // SAFETY: The result is new, and x is only read until it is returned.
        let (input, output) = unsafe { (elements::<T>(&x), elements_mut::<T>(&result)) };
        let parts = if input.len() < WORTH_SHARING { 1 } else { parallel::threads() };
        // SAFETY: The work is made here; what it writes, the result, is nobody else's.
        unsafe { parallel::in_turn([&Norm::new(input, norm, output, parts)]) };
    });
    result
}

/// The rows that a product reads, normed before it if they are to be.
pub(super) struct Input<'t, T> {
    pub(super) rows: Handover<'t, T>,
    norm: Option<Norm<'t, T>>,
}

impl<'t, T: Element> Input<'t, T> {
    pub(super) fn new(x: &'t [T], norm: Option<RowNorm<'t>>, memory: &'t mut Vec<Line>) -> Self {
        let Some(norm) = norm else { return Self { rows: x.into(), norm: None } };
        let rows = SharedMut::new(memory, x.len());
        Self { rows: rows.into(), norm: Some(Norm::new(x, norm, rows, parallel::threads())) }
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
    weight: &'t [T],
    eps: f32,
    parts: usize,
}

impl<'t, T: Element> Norm<'t, T> {
    fn new(input: &'t [T], norm: RowNorm<'t>, output: SharedMut<'t, T>, parts: usize) -> Self {
        // SAFETY: Nobody writes to weights.
        let weight = unsafe { elements::<T>(norm.weight) };
        assert!(input.len() == output.len() && input.len().is_multiple_of(weight.len()));
        Self { input, output, weight, eps: norm.eps, parts }
    }
}

impl<T: Element> Work for Norm<'_, T> {
    fn items(&self) -> usize {
        self.parts
    }

    unsafe fn item(&self, part: usize, _: Option<usize>) {
        let Self { input, output, weight, eps, parts } = *self;
        let (rows, width, instructions) = (input.len() / weight.len(), weight.len(), InstructionSet::best());
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
pub(super) fn inverse_rms<I: Instructions, T: Element>(input: &[T], eps: f32) -> f32 {
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

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn rows_are_normed_as_libtorch_does() {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.02), (Kind::Half, 3e-3)] {
            for (rows, width) in [(1, 576), (3, 40), (7, 17), (200, 576)] {
                let x = Tensor::randn([rows, width], (Kind::Float, Device::Cpu)).to_kind(kind) * 3;
                let weight = Tensor::rand([width], (Kind::Float, Device::Cpu)).to_kind(kind);
                let expected =
                    x.to_kind(Kind::Float).rms_norm([width], Some(&weight.to_kind(Kind::Float)), 1e-5);
                let found = rms_norm(&x, RowNorm { weight: &weight, eps: 1e-5 });
                assert_eq!(found.kind(), kind);
                let error = (found.to_kind(Kind::Float) - expected).abs().max().double_value(&[]);
                assert!(error < tolerance, "{kind:?} {rows} x {width}: {error}");
            }
        }
    }
}
