//! Kernels for the CPU, for what LibTorch is slow at: between two matrix products of a layer there are a dozen small
//! operations, whose overhead is as long as the products themselves when there are few rows, and its attention does not
//! know trees. Everything is computed in f32, whatever the tensors' type.
//!
//! An operation is safe to call with any tensors: it checks types, devices and sizes once, before its work
//! begins, and panics where they do not fit. What is written by several threads is shared out by
//! [`memory::SharedMut`], piece by piece of [`parallel::Work`].
#![expect(
    unsafe_code,
    reason = "uses the memory of tensors, vector instructions, and the OpenMP runtime of LibTorch"
)]
#![expect(
    clippy::inline_always,
    reason = "a kernel is compiled once per instruction set, which must reach all that it calls"
)]

mod attention;
mod element;
mod exponential;
mod instruction_set;
mod memory;
mod mlp;
mod norm;
mod parallel;
mod product;
mod simd;
mod sums;
mod top;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use attention::{Attending, HeadNorms, Heads, Visibility};
pub(super) use instruction_set::InstructionSet;
pub(super) use mlp::mlp;
pub(super) use norm::{RowNorm, rms_norm};
pub(super) use product::{Biased, Fused, Panels};
pub(super) use top::{argmax, top_log_probs};

use std::ptr::NonNull;

use tch::{Device, Kind, Tensor};

use element::Element;
use memory::SharedMut;

/// Whether these kernels can work on such tensors.
pub(super) fn supports(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half)
}

/// The elements of a contiguous tensor of the type `T` on the CPU.
///
/// # Safety
/// Nobody may write to the tensor, or give it other memory, while the slice lives.
unsafe fn elements<T: Element>(tensor: &Tensor) -> &[T] {
    let (start, len) = place(tensor);
    // SAFETY: `place` checked what is there. Its memory lives as long as the handle, and nobody writes to it.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
}

/// [`elements`], to write them.
///
/// # Safety
/// Nothing else may look at the tensor's memory while the result and its copies are used.
unsafe fn elements_mut<T: Element>(tensor: &Tensor) -> SharedMut<'_, T> {
    let (start, len) = place(tensor);
    // SAFETY: `place` checked what is there, and it is the caller's alone.
    unsafe { SharedMut::at(start, len) }
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
