//! The kernels of [`ltd_kernels`] on tensors. An operation is safe to call with any tensors: types,
//! devices and layouts are checked here, sizes by the kernels, before work begins; what does not
//! fit panics.
#![expect(unsafe_code, reason = "uses the memory of tensors")]

mod instructions;
mod open_mp;

use std::ptr::NonNull;

use half::{bf16, f16};
use ltd_kernels::{Attention, Caches, Cpu, Float};
use tch::{Device, Kind, Tensor};

pub(crate) use instructions::{check_instructions, instructions};
pub(super) use ltd_kernels::{Heads, InstructionSet, Visibility};

use open_mp::OpenMp;

/// The instructions in use, and LibTorch's threads.
pub(super) fn cpu() -> Cpu<'static> {
    with_instructions(instructions())
}

/// [`cpu`] with other instructions.
pub(super) fn with_instructions(instructions: InstructionSet) -> Cpu<'static> {
    Cpu { instructions, threads: &OpenMp }
}

/// Whether kernels can work on such tensors.
pub(super) fn supports(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half)
}

/// The Rust type of a kind of tensors.
trait Element: Float {
    const KIND: Kind;

    /// A weight of this type.
    fn panels(weight: &Panels) -> Option<&ltd_kernels::Panels<Self>>;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    fn panels(weight: &Panels) -> Option<&ltd_kernels::Panels<Self>> {
        if let Panels::F32(panels) = weight { Some(panels) } else { None }
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    fn panels(weight: &Panels) -> Option<&ltd_kernels::Panels<Self>> {
        if let Panels::Bf16(panels) = weight { Some(panels) } else { None }
    }
}

impl Element for f16 {
    const KIND: Kind = Kind::Half;

    fn panels(weight: &Panels) -> Option<&ltd_kernels::Panels<Self>> {
        if let Panels::F16(panels) = weight { Some(panels) } else { None }
    }
}

/// Calls generic code with the Rust type of a tensor's kind.
macro_rules! with_element {
    ($kind:expr, $name:ident => $call:expr) => {
        match $kind {
            Kind::Float => {
                type $name = f32;
                $call
            }
            Kind::BFloat16 => {
                type $name = bf16;
                $call
            }
            Kind::Half => {
                type $name = f16;
                $call
            }
            other => panic!("kernels are not asked for {other:?}"),
        }
    };
}

/// The elements of a contiguous tensor of the type `T` on the CPU.
///
/// # Safety
/// Nobody may write to the tensor, or give it other memory, while the slice lives.
unsafe fn elements<T: Element>(tensor: &Tensor) -> &[T] {
    let (start, len) = place(tensor);
    // SAFETY: `place` checked what is there. Its memory lives as long as the handle, and nobody
    // writes to it.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
}

/// [`elements`], to write them.
///
/// # Safety
/// Nothing else may look at the tensor's memory, or give it other memory, while the slice lives.
#[expect(clippy::mut_from_ref, reason = "a tensor's handle says nothing about who may write to it")]
unsafe fn elements_mut<T: Element>(tensor: &Tensor) -> &mut [T] {
    let (start, len) = place(tensor);
    // SAFETY: `place` checked what is there, and it is the caller's alone.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
}

/// First element and number of elements of a tensor that is as kernels want it.
fn place<T: Element>(tensor: &Tensor) -> (NonNull<T>, usize) {
    assert_eq!((tensor.kind(), tensor.device()), (T::KIND, Device::Cpu), "type or device of a tensor");
    assert!(tensor.is_contiguous(), "a tensor of {:?} is not contiguous", tensor.size());
    match (NonNull::new(tensor.data_ptr().cast()), tensor.numel()) {
        // A tensor without elements may have no memory.
        (_, 0) => (NonNull::dangling(), 0),
        (start, len) => (start.expect("invariant: elements are somewhere"), len),
    }
}

/// `x / rms(x) * weight`, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowNorm<'t> {
    /// `[width]`, of x's type.
    pub(super) weight: &'t Tensor,
    pub(super) eps: f32,
}

impl<'t> RowNorm<'t> {
    /// As the kernels take it.
    ///
    /// # Safety
    /// Nobody may write to the weight while it lives.
    unsafe fn of<T: Element>(self) -> ltd_kernels::RowNorm<'t, T> {
        // SAFETY: That is asked of the caller.
        ltd_kernels::RowNorm { weight: unsafe { elements(self.weight) }, eps: self.eps }
    }
}

/// Norms each row, `[n, width] -> [n, width]`.
pub(super) fn rms_norm(x: &Tensor, norm: RowNorm) -> Tensor {
    let x = x.contiguous();
    let result = x.empty_like();
    with_element!(x.kind(), T => {
        // SAFETY: The result is new, and nobody writes to the other ones.
        let (x, norm, result) = unsafe { (elements::<T>(&x), norm.of(), elements_mut(&result)) };
        ltd_kernels::rms_norm(cpu(), x, norm, result);
    });
    result
}

/// What is done with a product where it is computed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fused<'t> {
    Nothing,
    /// `silu(product)`.
    Silu,
    /// `product * other`.
    Times(&'t Tensor),
    /// `product + other`.
    Plus(&'t Tensor),
}

/// A weight that the kernels multiply.
#[derive(Debug)]
pub(super) enum Panels {
    F32(ltd_kernels::Panels<f32>),
    Bf16(ltd_kernels::Panels<bf16>),
    F16(ltd_kernels::Panels<f16>),
}

impl Panels {
    /// Packs a `[outputs, inputs]` weight if the kernels multiply such faster than oneDNN does.
    pub(super) fn new(weight: &Tensor) -> Option<Self> {
        if Self::are_faster(weight.device(), weight.kind()) { Self::pack(weight, cpu()) } else { None }
    }

    /// Whether the kernels multiply such weights faster than oneDNN does.
    pub(super) fn are_faster(device: Device, kind: Kind) -> bool {
        device == Device::Cpu && instructions::are_faster(kind)
    }

    fn pack(weight: &Tensor, cpu: Cpu) -> Option<Self> {
        let &[outputs, inputs] = weight.size().as_slice() else { panic!("a weight is a matrix") };
        let (weight, shape) = (weight.contiguous(), [outputs as usize, inputs as usize]);
        // SAFETY: Nobody writes to weights.
        unsafe {
            match weight.kind() {
                Kind::Float => ltd_kernels::Panels::pack(cpu, elements(&weight), shape).map(Self::F32),
                Kind::BFloat16 => ltd_kernels::Panels::pack(cpu, elements(&weight), shape).map(Self::Bf16),
                Kind::Half => ltd_kernels::Panels::pack(cpu, elements(&weight), shape).map(Self::F16),
                other => panic!("kernels are not asked for {other:?}"),
            }
        }
    }

    fn outputs(&self) -> i64 {
        let outputs = match self {
            Self::F32(panels) => panels.outputs(),
            Self::Bf16(panels) => panels.outputs(),
            Self::F16(panels) => panels.outputs(),
        };
        outputs as i64
    }
}

/// A weight and the bias `[outputs]` that is added to its product before all else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Biased<'t> {
    pub(super) weight: &'t Panels,
    pub(super) bias: Option<&'t Tensor>,
}

impl<'t> Biased<'t> {
    /// `[n, inputs] -> [n, outputs]`, of the rows or of the normed rows.
    pub(super) fn forward(self, x: &Tensor, norm: Option<RowNorm>, fused: Fused) -> Tensor {
        let (x, result) = (x.contiguous(), self.result(x));
        let other = match fused {
            Fused::Times(other) | Fused::Plus(other) => Some(other.contiguous()),
            Fused::Nothing | Fused::Silu => None,
        };
        assert!(
            other.as_ref().is_none_or(|other| other.size() == result.size()),
            "{other:?} is added to {result:?}"
        );
        with_element!(x.kind(), T => {
            // SAFETY: The result is new, and nobody writes to the other ones.
            let (linear, x, norm, other, result) = unsafe {
                let other = other.as_ref().map(|other| elements::<T>(other));
                (self.linear(), elements(&x), norm.map(|norm| norm.of()), other, elements_mut(&result))
            };
            let fused = match (fused, other) {
                (Fused::Times(_), Some(other)) => ltd_kernels::Fused::Times(other),
                (Fused::Plus(_), Some(other)) => ltd_kernels::Fused::Plus(other),
                (Fused::Silu, _) => ltd_kernels::Fused::Silu,
                _ => ltd_kernels::Fused::Nothing,
            };
            linear.forward(cpu_of(linear), x, norm, fused, result);
        });
        result
    }

    /// Memory for `[rows of x, outputs]`.
    fn result(self, x: &Tensor) -> Tensor {
        x.new_empty([x.size()[0], self.weight.outputs()], (x.kind(), x.device()))
    }

    /// As the kernels take it.
    ///
    /// # Safety
    /// Nobody may write to the bias while it lives.
    unsafe fn linear<T: Element>(self) -> ltd_kernels::Linear<'t, T> {
        let weight = T::panels(self.weight).expect("a weight of the rows' type");
        // SAFETY: That is asked of the caller.
        ltd_kernels::Linear { weight, bias: self.bias.map(|bias| unsafe { elements(bias) }) }
    }
}

/// The instructions that a weight is packed for, which tests choose.
fn cpu_of<T: Element>(linear: ltd_kernels::Linear<T>) -> Cpu<'static> {
    with_instructions(linear.weight.instructions())
}

/// `x + down(silu(gate(normed)) * up(normed))`, with the rows of `x` normed.
pub(super) fn mlp([gate, up, down]: [Biased; 3], x: &Tensor, norm: RowNorm) -> Tensor {
    let (x, result) = (x.contiguous(), down.result(x));
    assert_eq!(result.size(), x.size(), "an MLP ends with as many numbers as it begins with");
    with_element!(x.kind(), T => {
        // SAFETY: The result is new, and nobody writes to the other ones.
        let (x, norm, result) = unsafe { (elements::<T>(&x), norm.of(), elements_mut(&result)) };
        // SAFETY: Nobody writes to biases.
        let mlp = unsafe { ltd_kernels::Mlp { gate: gate.linear(), up: up.linear(), down: down.linear() } };
        mlp.forward(cpu_of(mlp.gate), x, norm, result);
    });
    result
}

/// Norms of each query and key head before the rotation (Qwen3).
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadNorms<'t> {
    pub(super) query: RowNorm<'t>,
    pub(super) key: RowNorm<'t>,
}

/// What is done between the projections: queries and keys are rotated, keys and values stored at
/// rows `past..past + n` of the caches, and attended to.
#[derive(Clone, Copy)]
pub(super) struct Attending<'t> {
    pub(super) cpu: Cpu<'t>,
    pub(super) heads: Heads,
    pub(super) norms: Option<HeadNorms<'t>>,
    /// Cosines and sines of the rows, `[n, width / 2]`.
    pub(super) cos: &'t [f32],
    pub(super) sin: &'t [f32],
    /// Caches, `[key heads, capacity, width]`.
    pub(super) keys: &'t Tensor,
    pub(super) values: &'t Tensor,
    pub(super) past: usize,
    pub(super) visibility: &'t Visibility,
}

impl Attending<'_> {
    /// Attends with what is projected already, `[n, (query heads + 2 key heads) * width]`: `[n,
    /// query heads * width]`.
    pub(super) fn attend(&self, qkv: &Tensor) -> Tensor {
        let size = [qkv.size()[0], (self.heads.queries * self.heads.width) as i64];
        let result = qkv.new_empty(size, (qkv.kind(), qkv.device()));
        with_element!(qkv.kind(), T => {
            // SAFETY: The result is new, and nobody writes to the projections. The caches are as
            // `attention` asks, as this is the only forward of their session.
            let (qkv, attention, result) =
                unsafe { (elements::<T>(qkv), self.attention(), elements_mut(&result)) };
            attention.attend(self.cpu, qkv, result);
        });
        result
    }

    /// `residual + output(attention(qkv(x)))`, with the rows of `x` normed if there is a norm: as
    /// one operation.
    pub(super) fn attend_projected(
        &self,
        [qkv, output]: [Biased; 2],
        x: &Tensor,
        norm: Option<RowNorm>,
        residual: &Tensor,
    ) -> Tensor {
        let (x, residual, result) = (x.contiguous(), residual.contiguous(), output.result(x));
        assert_eq!(residual.size(), result.size(), "the residual of a layer");
        with_element!(x.kind(), T => {
            // SAFETY: The result is new, and nobody writes to the other ones. The caches are as in
            // `attend`.
            let (linears, attention, x, norm, residual, result) = unsafe {
                (
                    [qkv.linear::<T>(), output.linear()],
                    self.attention(),
                    elements(&x),
                    norm.map(|norm| norm.of()),
                    elements(&residual),
                    elements_mut(&result),
                )
            };
            attention.attend_projected(self.cpu, linears, x, norm, residual, result);
        });
        result
    }

    /// As the kernels take it.
    ///
    /// # Safety
    /// Nothing else may look at the caches, and nobody may write to the norms, while it lives.
    unsafe fn attention<T: Element>(&self) -> Attention<'_, T> {
        let Self { heads, norms, cos, sin, keys, values, past, visibility, .. } = *self;
        let &[_, capacity, _] = keys.size().as_slice() else { panic!("a cache of {:?}", keys.size()) };
        for cache in [keys, values] {
            assert_eq!(cache.size(), [heads.keys as i64, capacity, heads.width as i64], "keys, values");
        }
        let [keys_at, values_at] = [keys, values].map(|cache| {
            let (start, len) = place::<T>(cache);
            let start = start.as_ptr().addr();
            start..start + len * size_of::<T>()
        });
        assert!(keys_at.end <= values_at.start || values_at.end <= keys_at.start, "keys and values overlap");
        // SAFETY: The caches are apart, and the caller's alone; nobody writes to norms.
        unsafe {
            Attention {
                heads,
                norms: norms.map(|HeadNorms { query, key }| ltd_kernels::HeadNorms {
                    query: query.of(),
                    key: key.of(),
                }),
                cos,
                sin,
                caches: Caches {
                    keys: elements_mut(keys),
                    values: elements_mut(values),
                    capacity: capacity as usize,
                    past,
                },
                visibility,
            }
        }
    }
}

/// The `width` most probable entries of each row of `[n, vocabulary]`: their log-probs and their
/// indices, row-major, best first; the earlier of equals first. A row with a NaN has log-probs that
/// are NaN.
pub(super) fn top_log_probs(logits: &Tensor, width: usize) -> (Vec<f32>, Vec<u32>) {
    let (logits, vocabulary) = rows(logits);
    // SAFETY: Nobody writes to the logits.
    with_element!(logits.kind(), T => unsafe {
        ltd_kernels::top_log_probs::<T>(cpu(), elements(&logits), vocabulary, width)
    })
}

/// The largest entry of each row of `[n, vocabulary]` and its index, the first of equals. That of a
/// row with a NaN is NaN.
pub(super) fn argmax(logits: &Tensor) -> Vec<(f32, u32)> {
    let (logits, vocabulary) = rows(logits);
    // SAFETY: Nobody writes to the logits.
    with_element!(logits.kind(), T => unsafe {
        ltd_kernels::argmax::<T>(cpu(), elements(&logits), vocabulary)
    })
}

/// A contiguous matrix and its width.
fn rows(logits: &Tensor) -> (Tensor, usize) {
    let &[_, vocabulary] = logits.size().as_slice() else {
        panic!("logits are a matrix, not {:?}", logits.size())
    };
    (logits.contiguous(), vocabulary as usize)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use half::bf16;

    use super::*;

    const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn elements_are_those_of_a_contiguous_tensor_of_the_type() {
        let tensor = Tensor::arange(6, F32).view([2, 3]);
        // SAFETY: Nobody writes to the tensors here.
        let of = |tensor: &Tensor| unsafe { elements::<f32>(tensor) }.to_vec();
        assert_eq!(of(&tensor), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(of(&tensor.narrow(0, 1, 1)), [3.0, 4.0, 5.0]);
        for empty in [Tensor::empty([0, 3], F32), tensor.narrow(0, 2, 0)] {
            assert!(of(&empty).is_empty());
        }
        let refused = |place: &dyn Fn()| catch_unwind(AssertUnwindSafe(place)).expect_err("refused");
        refused(&|| _ = place::<f32>(&tensor.transpose(0, 1)));
        refused(&|| _ = place::<bf16>(&tensor));
    }
}
