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

/// Items that may be done in any order, by any thread.
pub(super) trait Work: Sync {
    fn items(&self) -> usize;
    /// Does one of them.
    fn item(&self, item: usize);
}

/// Does each piece of work when the one before it is done, the items of each on several threads if there are more than
/// one. To gather threads and send them out again would take longer than to let them go on.
pub(super) fn in_turn<const N: usize>(work: [&dyn Work; N]) {
    let steps = work.map(Step::new);
    let steps = steps.as_slice();
    let (threads, most) = (threads(), steps.iter().map(|step| step.items).max().unwrap_or(0));
    let data = std::ptr::from_ref(&steps).cast_mut().cast::<c_void>();
    match *GOMP_PARALLEL {
        Some(gomp_parallel) if most > 1 && threads > 1 => unsafe {
            gomp_parallel(run, data, threads.min(most) as u32, 0);
        },
        _ => run(data),
    }
}

/// Calls `work` for each of `0..items`, on several threads if there is more than one item.
pub(super) fn for_each(items: usize, work: impl Fn(usize) + Sync) {
    in_turn([&Each(items, work)]);
}

/// Threads that are used for many items.
pub(super) fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
}

struct Each<F>(usize, F);

impl<F: Fn(usize) + Sync> Work for Each<F> {
    fn items(&self) -> usize {
        self.0
    }

    fn item(&self, item: usize) {
        (self.1)(item);
    }
}

/// Work under way.
struct Step<'w> {
    work: &'w dyn Work,
    items: usize,
    /// The item that is taken next.
    next: AtomicUsize,
    /// Items that are done.
    done: AtomicUsize,
}

impl<'w> Step<'w> {
    fn new(work: &'w dyn Work) -> Self {
        Self { work, items: work.items(), next: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Does items until all are taken.
    fn take(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.items {
                return;
            }
            self.work.item(item);
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns when all items are done.
    fn wait(&self) {
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < self.items {
            // The others are at work on their last items, unless they have no core: then they shall have this one.
            if looks < PATIENCE {
                std::hint::spin_loop();
                looks += 1;
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Looks at what others do before a thread gives way.
const PATIENCE: usize = 10_000;

extern "C" fn run(steps: *mut c_void) {
    let steps = unsafe { *steps.cast::<&[Step]>() };
    for (index, step) in steps.iter().enumerate() {
        step.take();
        // All threads come together at the end anyway.
        if index + 1 < steps.len() {
            step.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        for items in [0, 1, 2, 97] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            for_each(items, |item| _ = counts[item].fetch_add(1, Ordering::Relaxed));
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn work_begins_when_the_one_before_it_is_done() {
        for [first, second, third] in [[3, 40, 1], [0, 2, 5], [1, 1, 1], [2, 0, 2]] {
            for _ in 0..200 {
                let done = AtomicUsize::new(0);
                let after = |before: usize| {
                    let done = &done;
                    move |_| {
                        assert!(done.load(Ordering::Relaxed) >= before);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let last = Each(third, after(first + second));
                in_turn([&Each(first, after(0)), &Each(second, after(first)), &last]);
                assert_eq!(done.into_inner(), first + second + third);
            }
        }
    }
}
