//! Work shared among threads.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::memory::fetch;

/// Threads that kernels run on. A program that has a pool of threads lends it: threads of another
/// pool would compete with those for the cores.
///
/// Kernels stay sound whatever this does: each piece of work is done once, by whichever thread
/// comes to it.
pub trait Threads: Sync {
    /// Threads that work is worth sharing among, at least 1.
    fn count(&self) -> usize;

    /// Calls `work` with numbers below `count`, each at most once, at the same time where that is
    /// possible. Returns when all calls have returned. One call is enough; others only help it.
    ///
    /// `work` does not panic.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl Threads for Serial {
    fn count(&self) -> usize {
        1
    }

    fn run(&self, _: usize, work: &(dyn Fn(usize) + Sync)) {
        work(0);
    }
}

/// So many threads of the standard library, started for each operation: for tests, and where
/// operations are long.
#[derive(Debug, Clone, Copy)]
pub struct Scoped(pub usize);

impl Threads for Scoped {
    fn count(&self) -> usize {
        self.0.max(1)
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for thread in 1..count {
                scope.spawn(move || work(thread));
            }
            work(0);
        });
    }
}

/// Items that may be done in any order, by any thread.
pub(crate) trait Work: Sync {
    fn items(&self) -> usize;

    /// Does one of them. After it its thread probably does `next`, if anything.
    ///
    /// # Safety
    /// It must be one of the items, which nobody else does, and all items of the work before this
    /// must be done.
    unsafe fn item(&self, item: usize, next: Option<usize>);

    /// The memory that an item reads and that nobody writes, if it is much: who has nothing else to
    /// do may fetch it.
    fn reads(&self, _: usize) -> &[u8] {
        &[]
    }
}

/// Does each piece of work when the one before it is done, the items of each on several threads if
/// there are more than one. To gather threads and send them out again would take longer than to let
/// them go on.
///
/// A thread does items in a row, of each piece of work the same part: what it writes is in its own
/// cache when it goes on with it. To have it from another core's takes as long as from memory.
///
/// A panic in an item ends all of the work and goes on in this thread, as if the item had been done
/// here.
///
/// # Safety
/// No two items of one piece of work may write the same memory, none may read what another one of
/// the same work writes, and nobody else may do this work, or look at what it writes, meanwhile.
pub(crate) unsafe fn in_turn<const N: usize>(threads: &dyn Threads, work: [&dyn Work; N]) {
    let most = work.iter().map(|work| work.items()).max().unwrap_or(0);
    let count = threads.count().min(most).max(1);
    let taken: Vec<Counter> = (0..N * count).map(|_| Counter::default()).collect();
    let mut taken = taken.chunks_exact(count);
    let steps = work.map(|work| Step::new(work, taken.next().expect("one for each")));
    if count == 1 {
        for step in &steps {
            // SAFETY: Nobody else takes items, and those of the steps before are done.
            unsafe { step.take(0) };
        }
        return;
    }
    let region = Region { steps: &steps, panicked: AtomicBool::new(false), panic: Mutex::new(None) };
    threads.run(count, &|thread| region.run(thread % count));
    if let Some(panic) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
    assert!(steps.iter().all(Step::is_done), "threads have returned without doing their work");
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
    /// Each number that `fetch_add` returns is returned to one thread, so each item is done once.
    ///
    /// # Safety
    /// All steps before this must be done.
    unsafe fn take(&self, thread: usize) {
        let (mut done, threads) = (0, self.taken.len());
        for owner in (thread..threads).chain(0..thread) {
            let Range { start, end } = self.own(owner);
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

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) >= self.items
    }

    /// The numbers of a thread's own items.
    fn own(&self, thread: usize) -> Range<usize> {
        let [start, end] = [thread, thread + 1].map(|thread| self.items * thread / self.taken.len());
        start..end
    }

    /// Returns when all items are done, or `false` when one of them will never be. Until then what
    /// is to be `read` is fetched.
    fn wait(&self, panicked: &AtomicBool, read: impl Iterator<Item = &'w [u8]>) -> bool {
        let mut looks = 0;
        let lines = read.flat_map(|bytes| bytes.chunks(LINE)).take(MOST_FETCHED / LINE);
        for (number, line) in lines.enumerate() {
            if number % LOOK_EVERY == 0 && self.is_done() {
                return true;
            }
            fetch(line);
        }
        while !self.is_done() {
            if panicked.load(Ordering::Relaxed) {
                return false;
            }
            // The others are at work on their last items, unless they have no core: then they shall
            // have this one.
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
/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Bytes that a waiting thread fetches at most: half of a small second level.
const MOST_FETCHED: usize = 1 << 18;
/// Lines that it fetches before it looks again.
const LOOK_EVERY: usize = 16;

/// What threads do together.
struct Region<'w> {
    steps: &'w [Step<'w>],
    panicked: AtomicBool,
    /// What the first of them panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Region<'_> {
    /// A thread's part. Other frames may be above it, through which a panic must not unwind: it is
    /// kept for the thread that started the work. What the work was writing are plain numbers,
    /// whose values are of no use afterwards.
    fn run(&self, thread: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            for (index, step) in self.steps.iter().enumerate() {
                // SAFETY: Each step before was waited for.
                unsafe { step.take(thread) };
                // All threads come together at the end anyway.
                let left = &self.steps[index + 1..];
                if left.is_empty() {
                    return;
                }
                let read = left.iter().flat_map(|step| step.own(thread).map(|item| step.work.reads(item)));
                if !step.wait(&self.panicked, read) {
                    return;
                }
            }
        }));
        if let Err(panic) = result {
            self.panicked.store(true, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
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

    /// Threads one after another, and the last one only: all that a pool of threads must do.
    struct Late(usize);

    impl Threads for Late {
        fn count(&self) -> usize {
            self.0
        }

        fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
            for thread in (0..count).rev().step_by(2) {
                work(thread);
            }
        }
    }

    const POOLS: [&dyn Threads; 5] = [&Serial, &Scoped(2), &Scoped(7), &Late(1), &Late(4)];

    fn in_turn<const N: usize>(threads: &dyn Threads, work: [&dyn Work; N]) {
        // SAFETY: Closures that share no memory but atomic numbers may be called at any time.
        unsafe { super::in_turn(threads, work) }
    }

    #[test]
    fn a_panic_ends_the_work_and_goes_on_where_it_was_started() {
        // At once, in the middle, by all of them.
        for (panics, threads) in
            [0..1, 7..8, 0..20].into_iter().flat_map(|panics| POOLS.map(|pool| (panics.clone(), pool)))
        {
            let later = AtomicUsize::new(0);
            let first = Each(20, |item| {
                if panics.contains(&item) {
                    // As `panic!` does, without a message on standard error.
                    resume_unwind(Box::new(item));
                }
            });
            let second = Each(20, |_| _ = later.fetch_add(1, Ordering::Relaxed));
            let result = catch_unwind(AssertUnwindSafe(|| in_turn(threads, [&first, &second])));
            let panic = result.expect_err("a panic").downcast::<usize>().expect("the item's");
            assert!(panics.contains(&panic), "{panic}");
            assert_eq!(later.into_inner(), 0);
        }
    }

    #[test]
    fn every_item_is_done_once() {
        for (items, threads) in [0, 1, 2, 97].into_iter().flat_map(|items| POOLS.map(|pool| (items, pool))) {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            in_turn(threads, [&Each(items, |item: usize| _ = counts[item].fetch_add(1, Ordering::Relaxed))]);
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    #[should_panic(expected = "without doing their work")]
    fn threads_that_do_nothing_are_found_out() {
        struct Idle;

        impl Threads for Idle {
            fn count(&self) -> usize {
                2
            }

            fn run(&self, _: usize, _: &(dyn Fn(usize) + Sync)) {}
        }
        in_turn(&Idle, [&Each(3, |_| ())]);
    }

    #[test]
    fn work_begins_when_the_one_before_it_is_done() {
        for [first, second, third] in [[3, 40, 1], [0, 2, 5], [1, 1, 1], [2, 0, 2]] {
            for threads in POOLS.repeat(20) {
                let done = AtomicUsize::new(0);
                let after = |before: usize| {
                    let done = &done;
                    move |_| {
                        assert!(done.load(Ordering::Relaxed) >= before);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let last = Each(third, after(first + second));
                in_turn(threads, [&Each(first, after(0)), &Each(second, after(first)), &last]);
                assert_eq!(done.into_inner(), first + second + third);
            }
        }
    }

    #[test]
    fn a_thread_does_what_another_one_has_not_come_to() {
        const ITEMS: usize = 20;
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        let work = Each(ITEMS, |item| {
            // The first one does not end before all others are done, of which its own thread can do
            // none.
            while item == 0 && done.load(Ordering::Acquire) < ITEMS - 1 {
                assert!(start.elapsed() < Duration::from_secs(60), "nobody does the others");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Release);
        });
        in_turn(&Scoped(2), [&work]);
        assert_eq!(done.into_inner(), ITEMS);
    }
}
