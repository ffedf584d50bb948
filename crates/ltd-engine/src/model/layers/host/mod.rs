//! Kernels for the CPU, for what LibTorch is slow at: between two matrix products of a layer there are a dozen small
//! operations, whose overhead is as long as the products themselves when there are few rows, and its attention does not
//! know trees. Everything is computed in f32, whatever the tensors' type.
#![expect(
    unsafe_code,
    reason = "reads and writes the memory of tensors, and calls the OpenMP runtime of LibTorch"
)]
#![expect(
    clippy::inline_always,
    reason = "a kernel is compiled once per instruction set, which must reach all that it calls"
)]

mod attention;
mod element;
mod exponential;
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
pub(super) use mlp::mlp;
pub(super) use norm::{RowNorm, rms_norm};
pub(super) use product::{Biased, Fused, Panels};
pub(super) use simd::InstructionSet;
pub(super) use top::{argmax, top_log_probs};

use tch::{Device, Kind, Tensor};

/// Whether these kernels can work on such tensors.
pub(super) fn supports(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half)
}

/// The elements of a contiguous tensor.
///
/// # Safety
/// The tensor must be of the type `T`, on the CPU, and not be written to while the slice lives.
unsafe fn elements<T>(tensor: &Tensor) -> &[T] {
    assert!(tensor.is_contiguous());
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// [`elements`], to write them.
///
/// # Safety
/// As for [`elements`], and nothing else may look at the tensor while the slice lives.
#[expect(clippy::mut_from_ref, reason = "a tensor is a handle: its memory is not behind the reference")]
unsafe fn elements_mut<T>(tensor: &Tensor) -> &mut [T] {
    assert!(tensor.is_contiguous());
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}
