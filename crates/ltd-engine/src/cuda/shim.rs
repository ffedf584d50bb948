//! The functions of `native/shim.cpp`, made safe.
#![expect(unsafe_code, reason = "calls C functions")]

use std::ffi::{CStr, c_char, c_int};
use std::marker::{PhantomData, PhantomPinned};

use tch::{TchError, Tensor};

use crate::Result;

/// `at::Tensor`, as tch has it behind its pointers.
type RawTensor = std::ffi::c_void;

#[repr(C)]
struct RawGraph {
    _opaque: [u8; 0],
    _not_moved: PhantomData<(*mut u8, PhantomPinned)>,
}

/// A pool of device memory for graphs that are replayed one after another.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct GraphPool([u64; 2]);

unsafe extern "C" {
    fn ltd_copy_later(to: *mut RawTensor, from: *const RawTensor) -> *mut c_char;
    fn ltd_attend_to_first(
        attended: *mut *mut RawTensor,
        queries: *const RawTensor,
        keys: *const RawTensor,
        values: *const RawTensor,
        ends_of_queries: *const RawTensor,
        ends_of_keys: *const RawTensor,
        used: *const RawTensor,
    ) -> *mut c_char;
    fn ltd_graph_pool(pool: *mut GraphPool) -> *mut c_char;
    fn ltd_graph_begin(graph: *mut *mut RawGraph, device: c_int, pool: *const GraphPool) -> *mut c_char;
    fn ltd_graph_end(graph: *mut RawGraph) -> *mut c_char;
    fn ltd_graph_replay(graph: *mut RawGraph) -> *mut c_char;
    fn ltd_graph_drop(graph: *mut RawGraph);
    fn ltd_empty_cache() -> *mut c_char;
    fn ltd_profile_begin() -> *mut c_char;
    fn ltd_profile_end(kernels: *mut u64) -> *mut c_char;
    fn free(text: *mut c_char);
}

/// What a function of the shim has returned: no text is success.
fn checked(text: *mut c_char) -> Result<(), TchError> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: The shim returns nothing or a text of C's allocator that ends with 0, which is the
    // caller's.
    let message = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above; nobody has the pointer any more.
    unsafe { free(text) };
    Err(TchError::Torch(message))
}

/// Copies a tensor of pinned host memory into one of a device, when the device comes to it.
/// LibTorch does not use the pinned memory again before.
pub(crate) fn copy_later(to: &Tensor, from: &Tensor) -> Result<()> {
    assert!(to.device().is_cuda(), "only a device copies later");
    // SAFETY: Both point to tensors that live. To write into one changes its numbers alone, as
    // tch's own `copy_` does.
    Ok(checked(unsafe { ltd_copy_later(to.as_ptr().cast_mut().cast(), from.as_ptr().cast()) })?)
}

/// Flash attention of one row of queries (`[1, heads, width]`) over as many of the first keys and
/// values (`[positions, kv_heads, width]` each) as `used` says, one i32 on the device.
/// `ends_of_queries` and `ends_of_keys` are 0 and the number of rows of each, i32 as well.
pub(crate) fn attend_to_first(
    queries: &Tensor,
    [keys, values]: [&Tensor; 2],
    [ends_of_queries, ends_of_keys]: [&Tensor; 2],
    used: &Tensor,
) -> Result<Tensor> {
    let mut attended = std::ptr::null_mut();
    let [queries, keys, values, ends_of_queries, ends_of_keys, used] =
        [queries, keys, values, ends_of_queries, ends_of_keys, used].map(|tensor| tensor.as_ptr().cast());
    // SAFETY: All point to tensors that live, which are only read. LibTorch checks their shapes.
    let text = unsafe {
        ltd_attend_to_first(&raw mut attended, queries, keys, values, ends_of_queries, ends_of_keys, used)
    };
    checked(text)?;
    // SAFETY: After success it is a new tensor, made as tch makes them, that nobody else has.
    Ok(unsafe { Tensor::from_ptr(attended.cast()) })
}

/// How many kernels CUDA devices run while `work` is done, as LibTorch's profiler has it.
pub(crate) fn count_kernels<T>(work: impl FnOnce() -> Result<T>) -> Result<u64> {
    // SAFETY: It takes nothing. It refuses to begin twice.
    checked(unsafe { ltd_profile_begin() })?;
    let worked = work().map(drop);
    let mut kernels = 0;
    // SAFETY: It writes one number, where there is one.
    let ended = checked(unsafe { ltd_profile_end(&raw mut kernels) });
    worked?;
    ended?;
    Ok(kernels)
}

/// Gives device memory that LibTorch holds without using it back to CUDA.
pub(crate) fn empty_cache() -> Result<()> {
    // SAFETY: It takes nothing, and touches no memory that anybody has.
    Ok(checked(unsafe { ltd_empty_cache() })?)
}

impl GraphPool {
    /// A pool of its own.
    pub(crate) fn new() -> Result<Self> {
        let mut pool = Self([0; 2]);
        // SAFETY: It writes one pool, where there is one.
        checked(unsafe { ltd_graph_pool(&raw mut pool) })?;
        Ok(pool)
    }
}

/// What a device is to do, captured once, and begun with one launch.
pub(crate) struct Graph(*mut RawGraph);

// SAFETY: LibTorch lets any thread replay a graph, one at a time, which owning it is. The shim lets
// one thread at a time capture or destroy any graph.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `work` has a device do, which does not do it. The memory that `work` takes and
    /// gives back is the pool's: other graphs of the pool may write there.
    pub(crate) fn capture<T>(
        device: usize,
        pool: GraphPool,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<Self> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: It writes one pointer, where there is one, and reads one pool.
        checked(unsafe { ltd_graph_begin(&raw mut graph, device as c_int, &raw const pool) })?;
        let graph = Self(graph);
        // What the work has made goes back to the pool before the capture ends.
        let worked = work().map(drop);
        // SAFETY: The graph is one that was begun, and is ended once.
        let ended = checked(unsafe { ltd_graph_end(graph.0) });
        worked?;
        ended?;
        Ok(graph)
    }

    /// Has the device do what was captured.
    ///
    /// # Safety
    /// The memory that it reads and writes, but for the pool's, must be what it was.
    pub(crate) unsafe fn replay(&self) -> Result<()> {
        // SAFETY: The graph was captured wholly; the caller vouches for its memory.
        Ok(checked(unsafe { ltd_graph_replay(self.0) })?)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: It was made by `ltd_graph_begin`, and nobody else has it.
        unsafe { ltd_graph_drop(self.0) };
    }
}
