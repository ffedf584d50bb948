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

/// Items of work that may be done in any order, by any thread.
pub(super) struct Step<'w> {
    items: usize,
    work: &'w (dyn Fn(usize) + Sync),
    /// The next item that a thread takes.
    next: AtomicUsize,
    /// Items that are done.
    done: AtomicUsize,
}

impl<'w> Step<'w> {
    /// `work` for each of `0..items`.
    pub(super) fn new(items: usize, work: &'w (dyn Fn(usize) + Sync)) -> Self {
        Self { items, work, next: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Does items until all are taken.
    fn take(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.items {
                return;
            }
            (self.work)(item);
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

/// Threads that are used for many items.
pub(super) fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
}

/// Does one step after another, the items of each on several threads if there are more than one. To start and to gather
/// threads takes longer than to go on to the next step.
pub(super) fn in_turn(steps: &[Step]) {
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
pub(super) fn for_each(items: usize, work: &(dyn Fn(usize) + Sync)) {
    in_turn(&[Step::new(items, work)]);
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

    #[test]
    fn a_step_begins_when_the_one_before_it_is_done() {
        for sizes in [[3, 40, 1], [0, 2, 5], [1, 1, 1]] {
            for _ in 0..200 {
                let done = AtomicUsize::new(0);
                let [first, second, third] = sizes;
                let step = |before: usize| {
                    let done = &done;
                    move |_| {
                        assert!(done.load(Ordering::Relaxed) >= before);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let work = [step(0), step(first), step(first + second)];
                in_turn(&[
                    Step::new(first, &work[0]),
                    Step::new(second, &work[1]),
                    Step::new(third, &work[2]),
                ]);
                assert_eq!(done.into_inner(), first + second + third);
            }
        }
    }
}
