//! Work shared among the threads that LibTorch's own kernels use.
//!
//! Other threads would not do: after each of its kernels LibTorch's threads wait for the next one by spinning on
//! their cores. They belong to the OpenMP runtime that LibTorch is linked to, which is asked directly.

use std::ffi::c_void;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libloading::os::unix::Library;

type GompParallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// libgomp's entry point behind `#pragma omp parallel`; absent where LibTorch uses another runtime.
static GOMP_PARALLEL: LazyLock<Option<GompParallel>> =
    LazyLock::new(|| unsafe { Library::this().get(b"GOMP_parallel\0").ok().map(|symbol| *symbol) });

struct Job<'w> {
    next: AtomicUsize,
    items: usize,
    work: &'w (dyn Fn(usize) + Sync),
}

extern "C" fn run(job: *mut c_void) {
    let job = unsafe { &*job.cast::<Job>() };
    loop {
        let item = job.next.fetch_add(1, Ordering::Relaxed);
        if item >= job.items {
            return;
        }
        (job.work)(item);
    }
}

/// Threads that [`for_each`] uses for many items.
pub(super) fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
}

/// Calls `work` for each of `0..items`, on several threads if there is more than one item.
pub(super) fn for_each(items: usize, work: &(dyn Fn(usize) + Sync)) {
    let threads = threads();
    match *GOMP_PARALLEL {
        Some(gomp_parallel) if items > 1 && threads > 1 => {
            let job = Job { next: AtomicUsize::new(0), items, work };
            let data = std::ptr::from_ref(&job).cast_mut().cast::<c_void>();
            unsafe { gomp_parallel(run, data, threads.min(items) as u32, 0) };
        }
        _ => (0..items).for_each(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        for items in [0, 1, 2, 97] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            for_each(items, &|item| _ = counts[item].fetch_add(1, Ordering::Relaxed));
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}
