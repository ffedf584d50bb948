//! Memory that forwards use again: allocating it anew would take longer than filling it.

use std::cell::{Cell, RefCell};

use super::super::simd::{LANES, Vector};

thread_local! {
    /// Of a forward, used by the thread that starts it.
    pub(super) static FORWARD: RefCell<Vec<Line>> = RefCell::default();
    /// Of an item, used by every thread. Taken out rather than borrowed: a closure handed to `with_borrow_mut` is
    /// compiled without the kernel's instructions.
    pub(super) static ITEM: Cell<Item> = Cell::default();
}

/// Sixteen numbers of four bytes, or as many pairs of two.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(Vector);

/// What an item of the attention computes on its way.
#[derive(Default)]
pub(super) struct Item {
    /// `[width in units, lanes]`.
    pub(super) queries: Vec<Line>,
    /// `[total, lanes]`.
    pub(super) scores: Vec<Line>,
    /// `[total in units, lanes]`.
    pub(super) weights: Vec<Line>,
    /// `[width, lanes]`.
    pub(super) attended: Vec<Line>,
}

/// Memory for `count` lines, of whatever it was filled with before.
#[inline(always)]
pub(super) fn lines<U>(memory: &mut Vec<Line>, count: usize) -> &mut [[U; LANES]] {
    const { assert!(size_of::<[U; LANES]>() == size_of::<Line>()) };
    if memory.len() < count {
        memory.resize(count, Line::default());
    }
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
}
