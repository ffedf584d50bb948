//! What the crate is called for. Each operation is compiled here, once per number type: what is
//! generic would be compiled anew in every crate that calls it, for every instruction set.

use half::{bf16, f16};

use crate::Cpu;
use crate::attention::Attention;
use crate::element::Element;
use crate::mlp::Mlp;
use crate::norm::{self, RowNorm};
use crate::product::{Fused, Linear, Panels};
use crate::top;

/// A number type that kernels read and write: `f32`, `bf16` or `f16`.
#[expect(private_bounds, reason = "no other types can be: the bounds seal it")]
pub trait Float: Operations {}

impl Float for f32 {}
impl Float for bf16 {}
impl Float for f16 {}

impl<T: Float> Panels<T> {
    /// Packs a weight `[outputs, inputs]`, row-major. None if the instructions multiply several
    /// inputs at once, and the last step would not be whole.
    ///
    /// # Panics
    /// If the weight has another size, or no inputs.
    pub fn pack(cpu: Cpu, weight: &[T], shape: [usize; 2]) -> Option<Self> {
        T::pack(cpu, weight, shape)
    }
}

impl<T: Float> Linear<'_, T> {
    /// Multiplies rows, normed before if there is a norm: `x` is `[n, inputs]`, `result` `[n,
    /// outputs]`.
    ///
    /// # Panics
    /// If sizes do not fit, or the weight is packed for other instructions than those of `cpu`.
    pub fn forward(self, cpu: Cpu, x: &[T], norm: Option<RowNorm<T>>, fused: Fused<T>, result: &mut [T]) {
        T::linear(self, cpu, x, norm, fused, result);
    }
}

impl<T: Float> Mlp<'_, T> {
    /// `x + down(silu(gate(normed)) * up(normed))`, with the rows of `x` normed: `x` and `result`
    /// are `[n, hidden]`.
    ///
    /// # Panics
    /// If sizes do not fit, or a weight is packed for other instructions than those of `cpu`.
    pub fn forward(self, cpu: Cpu, x: &[T], norm: RowNorm<T>, result: &mut [T]) {
        T::mlp(self, cpu, x, norm, result);
    }
}

impl<T: Float> Attention<'_, T> {
    /// Attends with what is projected already, `qkv` `[n, (query heads + 2 key heads) * width]`;
    /// `result` is `[n, query heads * width]`.
    ///
    /// # Panics
    /// If sizes do not fit.
    pub fn attend(self, cpu: Cpu, qkv: &[T], result: &mut [T]) {
        T::attend(self, cpu, qkv, result);
    }

    /// `result = residual + output(attention(qkv(x)))`, with the rows of `x` normed if there is a
    /// norm: as one operation. `x` is `[n, inputs of qkv]`, `residual` and `result` are `[n,
    /// outputs of output]`.
    ///
    /// # Panics
    /// If sizes do not fit, or a weight is packed for other instructions than those of `cpu`.
    pub fn attend_projected(
        self,
        cpu: Cpu,
        projections: [Linear<T>; 2],
        x: &[T],
        norm: Option<RowNorm<T>>,
        residual: &[T],
        result: &mut [T],
    ) {
        T::attend_projected(self, cpu, projections, x, norm, residual, result);
    }
}

/// Norms each row of `x`, `[n, width]`, into `result`.
///
/// # Panics
/// If sizes do not fit.
pub fn rms_norm<T: Float>(cpu: Cpu, x: &[T], norm: RowNorm<T>, result: &mut [T]) {
    T::rms_norm(cpu, x, norm, result);
}

/// The `width` most probable entries of each row of logits `[n, vocabulary]`: their log-probs
/// (nats) and their indices, row-major, best first; the earlier of equals first. A row with a NaN
/// has log-probs that are NaN.
///
/// # Panics
/// If the logits are no whole rows, or `width` is 0.
pub fn top_log_probs<T: Float>(
    cpu: Cpu,
    logits: &[T],
    vocabulary: usize,
    width: usize,
) -> (Vec<f32>, Vec<u32>) {
    T::top_log_probs(cpu, logits, vocabulary, width)
}

/// The largest entry of each row of logits `[n, vocabulary]` and its index, the first of equals.
/// That of a row with a NaN is NaN.
///
/// # Panics
/// If the logits are no whole rows.
pub fn argmax<T: Float>(cpu: Cpu, logits: &[T], vocabulary: usize) -> Vec<(f32, u32)> {
    T::argmax(cpu, logits, vocabulary)
}

/// The operations of one number type.
pub(crate) trait Operations: Element {
    fn pack(cpu: Cpu, weight: &[Self], shape: [usize; 2]) -> Option<Panels<Self>>;

    fn linear(
        linear: Linear<Self>,
        cpu: Cpu,
        x: &[Self],
        norm: Option<RowNorm<Self>>,
        fused: Fused<Self>,
        result: &mut [Self],
    );

    fn mlp(mlp: Mlp<Self>, cpu: Cpu, x: &[Self], norm: RowNorm<Self>, result: &mut [Self]);

    fn attend(attention: Attention<Self>, cpu: Cpu, qkv: &[Self], result: &mut [Self]);

    fn attend_projected(
        attention: Attention<Self>,
        cpu: Cpu,
        projections: [Linear<Self>; 2],
        x: &[Self],
        norm: Option<RowNorm<Self>>,
        residual: &[Self],
        result: &mut [Self],
    );

    fn rms_norm(cpu: Cpu, x: &[Self], norm: RowNorm<Self>, result: &mut [Self]);

    fn top_log_probs(cpu: Cpu, logits: &[Self], vocabulary: usize, width: usize) -> (Vec<f32>, Vec<u32>);

    fn argmax(cpu: Cpu, logits: &[Self], vocabulary: usize) -> Vec<(f32, u32)>;
}

macro_rules! compile {
    ($($number:ty),*) => {$(
        impl Operations for $number {
            fn pack(cpu: Cpu, weight: &[Self], shape: [usize; 2]) -> Option<Panels<Self>> {
                Panels::packed_from(cpu, weight, shape)
            }

            fn linear(
                linear: Linear<Self>,
                cpu: Cpu,
                x: &[Self],
                norm: Option<RowNorm<Self>>,
                fused: Fused<Self>,
                result: &mut [Self],
            ) {
                linear.run(cpu, x, norm, fused, result);
            }

            fn mlp(mlp: Mlp<Self>, cpu: Cpu, x: &[Self], norm: RowNorm<Self>, result: &mut [Self]) {
                mlp.run(cpu, x, norm, result);
            }

            fn attend(attention: Attention<Self>, cpu: Cpu, qkv: &[Self], result: &mut [Self]) {
                attention.run(cpu, qkv, result);
            }

            fn attend_projected(
                attention: Attention<Self>,
                cpu: Cpu,
                projections: [Linear<Self>; 2],
                x: &[Self],
                norm: Option<RowNorm<Self>>,
                residual: &[Self],
                result: &mut [Self],
            ) {
                attention.run_projected(cpu, projections, x, norm, residual, result);
            }

            fn rms_norm(cpu: Cpu, x: &[Self], norm: RowNorm<Self>, result: &mut [Self]) {
                norm::run(cpu, x, norm, result);
            }

            fn top_log_probs(
                cpu: Cpu,
                logits: &[Self],
                vocabulary: usize,
                width: usize,
            ) -> (Vec<f32>, Vec<u32>) {
                top::log_probs(cpu, logits, vocabulary, width)
            }

            fn argmax(cpu: Cpu, logits: &[Self], vocabulary: usize) -> Vec<(f32, u32)> {
                top::largest(cpu, logits, vocabulary)
            }
        }
    )*};
}

compile!(f32, bf16, f16);
