//! Work shared among the threads that LibTorch's own kernels use.
//!
//! Other threads would not do: after each of its kernels LibTorch's threads wait for the next one by spinning on
//! their cores. They belong to the OpenMP runtime that LibTorch is linked to, which is asked directly.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use libloading::os::unix::Library;

/// libgomp's entry point behind `#pragma omp parallel`, and what a thread in it asks for. Compilers have put
/// calls of these into programs since GCC 4.9: they are an interface that does not change, which LLVM's
/// runtime has, too.
#[derive(Clone, Copy)]
struct OpenMp {
    parallel: unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32),
    /// The thread's number.
    thread: unsafe extern "C" fn() -> i32,
    /// Threads that there are: not always as many as were asked for.
    threads: unsafe extern "C" fn() -> i32,
}

/// Absent where LibTorch uses another runtime.
static OPEN_MP: LazyLock<Option<OpenMp>> = LazyLock::new(|| {
    let library = Library::this();
    // SAFETY: The types are those of libgomp (`libgomp_g.h`, `omp.h`), whose names nobody else gives to other
    // functions. They are there as long as the process, which LibTorch, and with it its runtime, is linked
    // to.
    unsafe {
        Some(OpenMp {
            parallel: *library.get(b"GOMP_parallel\0").ok()?,
            thread: *library.get(b"omp_get_thread_num\0").ok()?,
            threads: *library.get(b"omp_get_num_threads\0").ok()?,
        })
    }
});

/// Items that may be done in any order, by any thread.
pub(super) trait Work: Sync {
    fn items(&self) -> usize;

    /// Does one of them. After it its thread probably does `next`, if anything.
    ///
    /// # Safety
    /// It must be one of the items, which nobody else does, and all items of the work before this must be
    /// done.
    unsafe fn item(&self, item: usize, next: Option<usize>);
}

/// Does each piece of work when the one before it is done, the items of each on several threads if there are more than
/// one. To gather threads and send them out again would take longer than to let them go on.
///
/// A thread does items in a row, of each piece of work the same part: what it writes is in its own cache when it goes on
/// with it. To have it from another core's takes as long as from memory.
///
/// A panic in an item ends all of the work and goes on in this thread, as if the item had been done here.
///
/// # Safety
/// No two items of one piece of work may write the same memory, none may read what another one of the same
/// work writes, and nobody else may do this work, or look at what it writes, meanwhile.
pub(super) unsafe fn in_turn<const N: usize>(work: [&dyn Work; N]) {
    let most = work.iter().map(|work| work.items()).max().unwrap_or(0);
    let threads = threads().min(most).max(1);
    let taken: Vec<Counter> = (0..N * threads).map(|_| Counter::default()).collect();
    let mut taken = taken.chunks_exact(threads);
    let steps = work.map(|work| Step::new(work, taken.next().expect("one for each")));
    let region = Region { steps: &steps, panicked: AtomicBool::new(false), panic: Mutex::new(None) };
    match *OPEN_MP {
        Some(open_mp) if threads > 1 => {
            let data = std::ptr::from_ref(&region).cast_mut().cast::<c_void>();
            // SAFETY: The function is given what it expects, which outlives the call: that returns when all
            // threads have returned from the function. They do not unwind.
            unsafe { (open_mp.parallel)(run_shared, data, threads as u32, 0) };
            if let Some(panic) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
                resume_unwind(panic);
            }
        }
        _ => region.run(Place { thread: 0, threads: 1 }),
    }
}

/// Threads that are used for many items.
pub(super) fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
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

    /// Does a thread's own items, and then what others have not come to yet, until all are taken. Each number
    /// that `fetch_add` returns is returned to one thread, so each item is done once.
    ///
    /// # Safety
    /// All threads must divide the items alike, and all steps before this must be done.
    unsafe fn take(&self, Place { thread, threads }: Place) {
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
                // SAFETY: Nobody else took this item, and what was before it is done.
                unsafe { self.work.item(item, (item + 1 < end).then_some(item + 1)) };
                done += 1;
            }
        }
        self.done.fetch_add(done, Ordering::Release);
    }

    /// Returns when all items are done, or `false` when one of them will never be.
    fn wait(&self, panicked: &AtomicBool) -> bool {
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < self.items {
            if panicked.load(Ordering::Relaxed) {
                return false;
            }
            // The others are at work on their last items, unless they have no core: then they shall have this one.
            if looks < PATIENCE {
                std::hint::spin_loop();
                looks += 1;
            } else {
                std::thread::yield_now();
            }
        }
        true
    }
}

/// Looks at what others do before a thread gives way.
const PATIENCE: usize = 10_000;

/// What threads do together.
struct Region<'w> {
    steps: &'w [Step<'w>],
    panicked: AtomicBool,
    /// What the first of them panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Region<'_> {
    fn run(&self, place: Place) {
        for (index, step) in self.steps.iter().enumerate() {
            // SAFETY: Every thread is in one team, whose size divides the items; each waited for the step
            // before.
            unsafe { step.take(place) };
            // All threads come together at the end anyway.
            if index + 1 < self.steps.len() && !step.wait(&self.panicked) {
                return;
            }
        }
    }
}

/// A thread's part of a [`Region`]. The frames above it are C's, through which a panic must not unwind: it is
/// kept for the thread that started the work. What the work was writing are plain numbers, whose values are
/// of no use afterwards.
extern "C" fn run_shared(region: *mut c_void) {
    // SAFETY: `in_turn` passes a region, and keeps it until all threads have returned from here.
    let region = unsafe { &*region.cast::<Region>() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        let open_mp = OPEN_MP.expect("invariant: it runs this");
        // SAFETY: They only tell the thread's place in its team.
        let place = unsafe { [(open_mp.thread)(), (open_mp.threads)()] };
        let [thread, threads] = place.map(|number| number as usize);
        region.run(Place { thread, threads });
    }));
    if let Err(panic) = result {
        region.panicked.store(true, Ordering::Relaxed);
        region.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    struct Each<F>(usize, F);

    impl<F: Fn(usize) + Sync> Work for Each<F> {
        fn items(&self) -> usize {
            self.0
        }

        unsafe fn item(&self, item: usize, _: Option<usize>) {
            (self.1)(item);
        }
    }

    fn in_turn<const N: usize>(work: [&dyn Work; N]) {
        // SAFETY: Closures that share no memory but atomic numbers may be called at any time.
        unsafe { super::in_turn(work) }
    }

    fn for_each(items: usize, work: impl Fn(usize) + Sync) {
        in_turn([&Each(items, work)]);
    }

    #[test]
    fn a_panic_ends_the_work_and_goes_on_where_it_was_started() {
        // At once, in the middle, by all of them.
        for panics in [0..1, 7..8, 0..20] {
            let later = AtomicUsize::new(0);
            let first = Each(20, |item| {
                if panics.contains(&item) {
                    // As `panic!` does, without a message on standard error.
                    resume_unwind(Box::new(item));
                }
            });
            let second = Each(20, |_| _ = later.fetch_add(1, Ordering::Relaxed));
            let result = catch_unwind(AssertUnwindSafe(|| in_turn([&first, &second])));
            let panic = result.expect_err("a panic").downcast::<usize>().expect("the item's");
            assert!(panics.contains(&panic), "{panic}");
            assert_eq!(later.into_inner(), 0);
        }
        every_item_is_done_once();
    }

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
            println!("not covered: LibTorch has one thread here");
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
