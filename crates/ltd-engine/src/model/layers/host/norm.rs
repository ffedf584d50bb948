//! Root-mean-square norm of rows.

use tch::Tensor;

use super::element::{Element, with_element};
use super::memory::{Handover, Line};
use super::parallel::Work;
use super::simd::{Instructions, Kernel, LANES, Vector, dispatch, multiply_add, sum};
use super::{elements, parallel};

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
        // The result is new, and of x's type.
        let (input, output) = unsafe { (elements::<T>(&x), Handover::of(elements(&result))) };
        let parts = if input.len() < WORTH_SHARING { 1 } else { parallel::threads() };
        parallel::in_turn([&Norm::new(input, norm, output, parts)]);
    });
    result
}

/// The rows that a product reads, normed before it if they are to be.
pub(super) struct Input<'t, T> {
    pub(super) rows: Handover<T>,
    norm: Option<Norm<'t, T>>,
}

impl<'t, T: Element> Input<'t, T> {
    pub(super) fn new(x: &'t [T], norm: Option<RowNorm<'t>>, memory: &mut Vec<Line>) -> Self {
        let Some(norm) = norm else { return Self { rows: Handover::of(x), norm: None } };
        let rows = Handover::new(memory, x.len());
        Self { rows, norm: Some(Norm::new(x, norm, rows, parallel::threads())) }
    }
}

impl<T: Element> Work for Input<'_, T> {
    fn items(&self) -> usize {
        self.norm.as_ref().map_or(0, Norm::items)
    }

    fn item(&self, item: usize, next: Option<usize>) {
        if let Some(norm) = &self.norm {
            norm.item(item, next);
        }
    }
}

/// Norms rows into other memory, in parts of equal size.
struct Norm<'t, T> {
    input: &'t [T],
    output: Handover<T>,
    weight: &'t [T],
    eps: f32,
    parts: usize,
}

impl<'t, T: Element> Norm<'t, T> {
    fn new(input: &'t [T], norm: RowNorm<'t>, output: Handover<T>, parts: usize) -> Self {
        // The weight is of x's type.
        let weight = unsafe { elements::<T>(norm.weight) };
        assert!(input.len() == output.len() && input.len().is_multiple_of(weight.len()));
        Self { input, output, weight, eps: norm.eps, parts }
    }
}

impl<T: Element> Work for Norm<'_, T> {
    fn items(&self) -> usize {
        self.parts
    }

    fn item(&self, part: usize, _: Option<usize>) {
        let rows = self.input.len() / self.weight.len();
        for row in rows * part / self.parts..rows * (part + 1) / self.parts {
            dispatch(self, row);
        }
    }
}

impl<T: Element> Kernel for Norm<'_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, row: usize) {
        let width = self.weight.len();
        let input = &self.input[row * width..][..width];
        let output = unsafe { std::slice::from_raw_parts_mut(self.output.start().add(row * width), width) };
        let factor = inverse_rms::<I, T>(input, self.eps);
        let normed = |input: &T, weight: &T| input.to_f32() * factor * weight.to_f32();
        let (inputs, rest) = input.as_chunks::<LANES>();
        let (weights, weights_of_rest) = self.weight.as_chunks::<LANES>();
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
