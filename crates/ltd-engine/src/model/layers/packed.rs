//! oneDNN's packed weights: the fastest matrix products where there are none of the engine's own
//! ([`super::host`]). LibTorch's plain `linear` reads weights in an order that wastes memory
//! bandwidth at few rows.
//!
//! LibTorch has no function for them in its public C++ interface, but exports C functions that
//! compiled models use (`torch/csrc/inductor/aoti_torch/c/`). They are looked up when first needed:
//! a LibTorch without them or of another version, another processor or another number type leaves
//! the plain product.
#![expect(
    unsafe_code,
    reason = "calls LibTorch's C functions; tensors are passed as the pointers that tch holds"
)]

use std::ffi::{CStr, c_char, c_void};
use std::sync::LazyLock;

use libloading::os::unix::Library;
use tch::{Device, Kind, Tensor};

use super::host::Fused;
use crate::libtorch::check_version;

type TensorHandle = *mut c_void;

type CallDispatcher = unsafe extern "C" fn(*const c_char, *const c_char, *mut u64) -> i32;
type LinearPointwise = unsafe extern "C" fn(
    TensorHandle,
    TensorHandle,
    *mut TensorHandle,
    *const c_char,
    *const *const f64,
    i64,
    *const *const c_char,
    *mut TensorHandle,
) -> i32;
type LinearPointwiseBinary = unsafe extern "C" fn(
    TensorHandle,
    TensorHandle,
    TensorHandle,
    *mut TensorHandle,
    *const c_char,
    *mut TensorHandle,
) -> i32;

struct Functions {
    call_dispatcher: CallDispatcher,
    linear: LinearPointwise,
    linear_binary: LinearPointwiseBinary,
}

/// The functions, or why they are not used.
static FUNCTIONS: LazyLock<Result<Functions, String>> = LazyLock::new(|| {
    // The types are from the headers of this version; those of its patches are the same.
    check_version()?;
    let program = Library::this();
    // SAFETY: The types are those of the headers of this version, which is the one in the process.
    let functions = unsafe {
        || -> Result<_, libloading::Error> {
            Ok(Functions {
                call_dispatcher: *program.get(b"aoti_torch_call_dispatcher\0")?,
                linear: *program.get(b"aoti_torch_cpu__linear_pointwise\0")?,
                linear_binary: *program.get(b"aoti_torch_cpu__linear_pointwise_binary\0")?,
            })
        }()
    };
    functions.map_err(|problem| format!("LibTorch lacks a function: {problem}"))
});

/// Why no product on a CPU is oneDNN's with a packed weight, if LibTorch is the reason.
pub fn why_not_packed() -> Option<&'static str> {
    FUNCTIONS.as_ref().err().map(String::as_str)
}

/// A weight in oneDNN's own order.
#[derive(Debug)]
pub(super) struct PackedWeight {
    weight: Tensor,
}

impl PackedWeight {
    /// Packs a `[outputs, inputs]` weight, if it is on a CPU that oneDNN has kernels of its type
    /// for.
    pub(super) fn new(weight: &Tensor) -> Option<Self> {
        let is_possible = weight.device() == Device::Cpu && has_kernels(weight.kind());
        let functions = FUNCTIONS.as_ref().ok().filter(|_| is_possible)?;
        // The dispatcher takes ownership of the handle in the first place and leaves the result
        // there; the second argument, the expected rows, is absent: that packing was the fastest
        // for all numbers of rows.
        let mut argument = std::mem::ManuallyDrop::new(weight.contiguous());
        let mut stack = [argument.as_mut_ptr() as u64, 0];
        let name = c"mkldnn::_reorder_linear_weight";
        // SAFETY: The operation has two arguments and one result (`Tensor self, SymInt?
        // expected_rows -> Tensor`), which the stack has room for. A handle is a pointer to an
        // `at::Tensor`, as tch's is, made by `new` as the dispatcher expects that deletes it;
        // `argument` does not. Exceptions are caught behind the function, which tells them by its
        // code.
        let code = unsafe { (functions.call_dispatcher)(name.as_ptr(), c"".as_ptr(), stack.as_mut_ptr()) };
        // SAFETY: On success the stack holds the handle of a new tensor, which is ours.
        (code == 0).then(|| Self { weight: unsafe { Tensor::from_ptr(stack[0] as *mut _) } })
    }

    /// `[n, inputs] -> [n, outputs]`.
    pub(super) fn forward(&self, x: &Tensor, fused: Fused) -> Tensor {
        let Ok(functions) = &*FUNCTIONS else { unreachable!("invariant: packing needed them") };
        let handle = |tensor: &Tensor| tensor.as_ptr().cast_mut().cast::<c_void>();
        let mut result: TensorHandle = std::ptr::null_mut();
        let unary = |attribute: &CStr, result: &mut TensorHandle| {
            // SAFETY: Handles are pointers to `at::Tensor`s, which are only read; bias, scalars
            // (none of them) and algorithm are absent, as null pointers say; the attribute is a
            // text that ends with 0.
            unsafe {
                (functions.linear)(
                    handle(x),
                    handle(&self.weight),
                    std::ptr::null_mut(),
                    attribute.as_ptr(),
                    std::ptr::null(),
                    0,
                    std::ptr::null(),
                    result,
                )
            }
        };
        let binary = |other: &Tensor, attribute: &CStr, result: &mut TensorHandle| {
            // SAFETY: As above.
            unsafe {
                (functions.linear_binary)(
                    handle(x),
                    handle(other),
                    handle(&self.weight),
                    std::ptr::null_mut(),
                    attribute.as_ptr(),
                    result,
                )
            }
        };
        let code = match fused {
            Fused::Nothing => unary(c"none", &mut result),
            Fused::Silu => unary(c"swish", &mut result),
            Fused::Times(other) => binary(other, c"mul", &mut result),
            Fused::Plus(other) => binary(other, c"add", &mut result),
        };
        // As tch's plain operations do: shapes were checked when the weights were loaded.
        assert!(code == 0 && !result.is_null(), "LibTorch: packed product of {:?} failed", x.size());
        // SAFETY: On success the handle is that of a new tensor, which is ours.
        unsafe { Tensor::from_ptr(result.cast()) }
    }
}

/// Whether oneDNN has fast kernels for a number type on this processor (the conditions that
/// LibTorch checks).
fn has_kernels(kind: Kind) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        match kind {
            Kind::Float => is_x86_feature_detected!("avx2"),
            Kind::BFloat16 => avx512,
            Kind::Half => avx512 && is_x86_feature_detected!("avx512fp16"),
            _ => false,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = kind;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::{KNOWN, libtorch_version};

    #[test]
    fn functions_are_used_of_the_version_that_they_are_known_for() {
        let version = libtorch_version();
        println!("LibTorch {version:?}, packed weights: {:?}", why_not_packed());
        // The one that scripts/setup installs; another one is named with what is missing.
        match why_not_packed() {
            None => assert!(version.expect("a version").starts_with(&KNOWN)),
            Some(problem) => {
                assert!(problem.starts_with("LibTorch "), "{problem}");
                let weight = Tensor::zeros([32, 32], (Kind::Float, Device::Cpu));
                assert!(PackedWeight::new(&weight).is_none());
            }
        }
    }
}
