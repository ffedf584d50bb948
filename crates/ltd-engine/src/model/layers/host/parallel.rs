//! Work shared among the threads that LibTorch's own kernels use.
//!
//! Other threads would not do: after each of its kernels LibTorch's threads wait for the next one by spinning on
//! their cores. They belong to the OpenMP runtime that LibTorch is linked to, which is asked directly.

use std::ffi::c_void;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libloading::os::unix::Library;

/// libgomp's entry point behind `#pragma omp parallel`, and what a thread in it asks for.
#[derive(Clone, Copy)]
struct OpenMp {
    parallel: unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32),
    /// The thread's number.
    thread: unsafe extern "C" fn() -> i32,
    /// Threads that there are: not always as many as were asked for.
    threads: unsafe extern "C" fn() -> i32,
}

/// Absent where LibTorch uses another runtime.
static OPEN_MP: LazyLock<Option<OpenMp>> = LazyLock::new(|| unsafe {
    let library = Library::this();
    Some(OpenMp {
        parallel: *library.get(b"GOMP_parallel\0").ok()?,
        thread: *library.get(b"omp_get_thread_num\0").ok()?,
        threads: *library.get(b"omp_get_num_threads\0").ok()?,
    })
});

/// Items that may be done in any order, by any thread.
pub(super) trait Work: Sync {
    fn items(&self) -> usize;
    /// Does one of them. After it its thread probably does `next`, if anything.
    fn item(&self, item: usize, next: Option<usize>);
}

/// Does each piece of work when the one before it is done, the items of each on several threads if there are more than
/// one. To gather threads and send them out again would take longer than to let them go on.
///
/// A thread does items in a row, of each piece of work the same part: what it writes is in its own cache when it goes on
/// with it. To have it from another core's takes as long as from memory.
pub(super) fn in_turn<const N: usize>(work: [&dyn Work; N]) {
    let most = work.iter().map(|work| work.items()).max().unwrap_or(0);
    let threads = threads().min(most).max(1);
    let taken: Vec<Counter> = (0..N * threads).map(|_| Counter::default()).collect();
    let mut taken = taken.chunks_exact(threads);
    let steps = work.map(|work| Step::new(work, taken.next().expect("one for each")));
    let steps = steps.as_slice();
    match *OPEN_MP {
        Some(open_mp) if threads > 1 => unsafe {
            let data = std::ptr::from_ref(&steps).cast_mut().cast::<c_void>();
            (open_mp.parallel)(run_shared, data, threads as u32, 0);
        },
        _ => run(steps, Place { thread: 0, threads: 1 }),
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

    fn item(&self, item: usize, _: Option<usize>) {
        (self.1)(item);
    }
}

/// A thread among those that share work.
#[derive(Clone, Copy)]
struct Place {
    thread: usize,
    threads: usize,
}

/// A counter that shares no line of the cache, nor a pair of lines, with another one.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicUsize);

/// Work under way.
struct Step<'w> {
    work: &'w dyn Work,
    items: usize,
    /// How many of each thread's items were taken, by whomever.
    taken: &'w [Counter],
    /// Items that are done.
    done: AtomicUsize,
}

impl<'w> Step<'w> {
    fn new(work: &'w dyn Work, taken: &'w [Counter]) -> Self {
        Self { work, items: work.items(), taken, done: AtomicUsize::new(0) }
    }

    /// Does a thread's own items, and then what others have not come to yet, until all are taken.
    fn take(&self, Place { thread, threads }: Place) {
        let mut done = 0;
        for owner in (thread..threads).chain(0..thread) {
            let [start, end] = [owner, owner + 1].map(|thread| self.items * thread / threads);
            let taken = &self.taken[owner].0;
            // To look is cheaper than to take.
            while start + taken.load(Ordering::Relaxed) < end {
                let item = start + taken.fetch_add(1, Ordering::Relaxed);
                if item >= end {
                    break;
                }
                self.work.item(item, (item + 1 < end).then_some(item + 1));
                done += 1;
            }
        }
        self.done.fetch_add(done, Ordering::Release);
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

extern "C" fn run_shared(steps: *mut c_void) {
    let steps = unsafe { *steps.cast::<&[Step]>() };
    let open_mp = OPEN_MP.expect("invariant: it runs this");
    let [thread, threads] =
        unsafe { [(open_mp.thread)(), (open_mp.threads)()] }.map(|number| number as usize);
    run(steps, Place { thread, threads });
}

fn run(steps: &[Step], place: Place) {
    for (index, step) in steps.iter().enumerate() {
        step.take(place);
        // All threads come together at the end anyway.
        if index + 1 < steps.len() {
            step.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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

    #[test]
    fn a_thread_does_what_another_one_has_not_come_to() {
        const ITEMS: usize = 20;
        if threads() < 2 {
            return;
        }
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        for_each(ITEMS, |item| {
            // The first one does not end before all others are done, of which its own thread can do none.
            while item == 0 && done.load(Ordering::Acquire) < ITEMS - 1 {
                assert!(start.elapsed() < Duration::from_secs(60), "nobody does the others");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Release);
        });
        assert_eq!(done.into_inner(), ITEMS);
    }
}
