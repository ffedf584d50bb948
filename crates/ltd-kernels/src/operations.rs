//! Operations per number type. They are compiled here, once: what is generic is compiled anew in
//! every crate that calls it, for every instruction set.

use half::{bf16, f16};

use crate::Cpu;
use crate::attention::Attention;
use crate::element::Element;
use crate::mlp::Mlp;
use crate::norm::{self, RowNorm};
use crate::product::{Fused, Linear, Panels};
use crate::top;

/// What the crate's generic functions call.
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
