//! The threads that LibTorch's own kernels use.
//!
//! Other threads would not do: after each of its kernels LibTorch's threads wait for the next one
//! by spinning on their cores. They belong to the OpenMP runtime that LibTorch is linked to, which
//! is asked directly.

use std::ffi::c_void;
use std::sync::LazyLock;

use libloading::os::unix::Library;
use ltd_kernels::Threads;

/// libgomp's entry point behind `#pragma omp parallel`, and what a thread in it asks for. Compilers
/// have put calls of these into programs since GCC 4.9: they are an interface that does not change,
/// which LLVM's runtime has, too.
#[derive(Clone, Copy)]
struct Runtime {
    parallel: unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32),
    /// The thread's number.
    thread: unsafe extern "C" fn() -> i32,
}

/// Absent where LibTorch uses another runtime.
static RUNTIME: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let library = Library::this();
    // SAFETY: The types are those of libgomp (`libgomp_g.h`, `omp.h`), whose names nobody else
    // gives to other functions. They are there as long as the process, which LibTorch, and with it
    // its runtime, is linked to.
    unsafe {
        Some(Runtime {
            parallel: *library.get(b"GOMP_parallel\0").ok()?,
            thread: *library.get(b"omp_get_thread_num\0").ok()?,
        })
    }
});

/// As many threads as LibTorch uses; the calling one alone where its runtime is unknown.
pub(super) struct OpenMp;

impl Threads for OpenMp {
    fn count(&self) -> usize {
        if RUNTIME.is_some() { tch::get_num_threads().max(1) as usize } else { 1 }
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        /// A thread's part.
        struct Part<'w> {
            runtime: Runtime,
            work: &'w (dyn Fn(usize) + Sync),
        }

        extern "C" fn run_part(part: *mut c_void) {
            // SAFETY: `run` passes a `Part`, and keeps it until all threads have returned from
            // here.
            let Part { runtime, work } = unsafe { &*part.cast::<Part>() };
            // SAFETY: It only tells the thread's number in its team.
            let thread = unsafe { (runtime.thread)() };
            // Work does not panic; if it did, the process would end here.
            work(thread as usize);
        }

        let Some(runtime) = *RUNTIME else { return work(0) };
        let part = Part { runtime, work };
        let data = std::ptr::from_ref(&part).cast_mut().cast::<c_void>();
        // SAFETY: The function is given what it expects, which outlives the call: that returns when
        // all threads have returned from the function.
        unsafe { (runtime.parallel)(run_part, data, count as u32, 0) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_thread_comes_once_with_a_number_of_its_own() {
        assert!(RUNTIME.is_some(), "the LibTorch that scripts/setup installs uses libgomp");
        for count in [1, 2, 3] {
            let calls: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            OpenMp.run(count, &|thread| _ = calls[thread].fetch_add(1, Ordering::Relaxed));
            let calls: Vec<usize> = calls.into_iter().map(AtomicUsize::into_inner).collect();
            assert!(calls[0] == 1 && calls.iter().all(|calls| *calls <= 1), "{calls:?}");
        }
    }
}
