//! Decisions allocate nothing.

#![expect(unsafe_code, reason = "an allocator that counts, and calls as from C")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CString;

use ltdpolicy::{
    Source, SourceKind, Status, ltd_policy_open, ltd_sequence_begin, ltd_sequence_commit,
    ltd_sequence_continue, ltd_sequence_open, ltd_sequence_push_level, ltd_sequence_size,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is done by the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller says.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    run();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_decision_allocates_nothing() {
    for name in ["factored", "pair"] {
        let folder = crate::package(name);
        let folder = CString::new(folder.to_str().expect("UTF-8")).expect("no zero");
        let (mut policy, mut sequence) = (0, 0);
        let prompt: Vec<u32> = (0..40).map(|token| token % 9).collect();
        // SAFETY: all pointers are of living values of the right type and number.
        unsafe {
            assert_eq!(ltd_policy_open(folder.as_ptr(), &raw mut policy), Status::Ok);
            let opened = ltd_sequence_open(policy, prompt.as_ptr(), prompt.len(), 4, &raw mut sequence);
            assert_eq!(opened, Status::Ok);
        }
        let log_probs: Vec<f32> = (0..100).map(|number| -0.5 * (number % 10) as f32).collect();
        let tokens: Vec<u32> = (0..100).map(|number| 20 + number % 10).collect();
        let (mut decisions, mut trees) = (0, 0);
        for cycle in 0..50u32 {
            let mut source = Source { kind: SourceKind::Tree, chain: 0 };
            let (mut more, mut size) = (true, 0);
            // SAFETY: as above.
            let allocated = allocations_of(|| unsafe {
                assert_eq!(ltd_sequence_begin(sequence, &raw mut source), Status::Ok);
            });
            assert_eq!(allocated, 0, "{name}: the choice of the source");
            if source.kind != SourceKind::Copy {
                let mut rows = 1;
                while more {
                    // SAFETY: as above; a level has at most 10 times 10 numbers.
                    unsafe {
                        let pushed =
                            ltd_sequence_push_level(sequence, log_probs.as_ptr(), tokens.as_ptr(), rows);
                        assert_eq!(pushed, Status::Ok);
                        let count = &mut rows;
                        let nodes = ltdpolicy::ltd_sequence_frontier(
                            sequence,
                            std::ptr::null_mut(),
                            std::ptr::null_mut(),
                            0,
                            count,
                        );
                        assert_eq!(nodes, Status::Ok);
                    }
                    // SAFETY: as above.
                    let allocated = allocations_of(|| unsafe {
                        assert_eq!(ltd_sequence_continue(sequence, &raw mut more), Status::Ok);
                    });
                    assert_eq!(allocated, 0, "{name}: whether to draft on");
                    decisions += 1;
                }
                trees += 1;
            }
            // SAFETY: as above.
            let allocated = allocations_of(|| unsafe {
                assert_eq!(ltd_sequence_size(sequence, &raw mut size), Status::Ok);
            });
            assert_eq!(allocated, 0, "{name}: the size");
            // SAFETY: as above.
            unsafe { assert_eq!(ltd_sequence_commit(sequence, std::ptr::null(), 0, cycle % 13), Status::Ok) };
        }
        assert!(decisions > 20 && trees < 50, "{name}: {decisions} decisions, {trees} trees");
    }
}
