//! How much memory a thread has at once.

#![expect(unsafe_code, reason = "an allocator hands memory through")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts: make it a test's with `#[global_allocator]`.
#[derive(Debug)]
pub struct Meter;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most of them since a [`Span`]
    /// began.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // While a thread ends, nothing is counted.
    let _ = BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get())))
    });
}

// SAFETY: every call is the system allocator's, with the very arguments; counting neither allocates
// nor panics.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A time in which the most memory of this thread is of interest.
pub(crate) struct Span {
    before: isize,
}

impl Span {
    pub(crate) fn begin() -> Self {
        let before = BYTES.get();
        PEAK.set(before);
        Self { before }
    }

    /// The most memory since then, beyond what there was.
    pub(crate) fn peak(&self) -> usize {
        usize::try_from(PEAK.get() - self.before).unwrap_or(0)
    }
}
