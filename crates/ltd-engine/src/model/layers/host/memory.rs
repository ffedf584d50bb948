//! Memory that is used again and again: allocating it anew would take longer than filling it. What it holds at first is
//! whatever it was filled with before.

use std::marker::PhantomData;

use super::element::Element;
use super::simd::{LANES, Vector};

/// Sixteen numbers of four bytes, or as many pairs of two.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(Vector);

/// Numbers that one step of work writes, or that were there before, and that later steps read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handover<T> {
    address: usize,
    len: usize,
    numbers: PhantomData<fn() -> T>,
}

impl<T: Element> Handover<T> {
    /// Numbers that somebody keeps until the work is done.
    pub(super) fn of(numbers: &[T]) -> Self {
        Self { address: numbers.as_ptr() as usize, len: numbers.len(), numbers: PhantomData }
    }

    /// Memory for `count` numbers that are still to be written.
    pub(super) fn new(memory: &mut Vec<Line>, count: usize) -> Self {
        grow(memory, (count * size_of::<T>()).div_ceil(size_of::<Line>()));
        Self { address: memory.as_mut_ptr() as usize, len: count, numbers: PhantomData }
    }

    pub(super) fn len(self) -> usize {
        self.len
    }

    /// Where they are.
    #[inline(always)]
    pub(super) fn start(self) -> *mut T {
        self.address as *mut T
    }

    /// # Safety
    /// The memory must still be there, and nobody write to it any more.
    #[inline(always)]
    pub(super) unsafe fn read<'t>(self) -> &'t [T] {
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

/// Memory for `count` lines.
#[inline(always)]
pub(super) fn lines<U>(memory: &mut Vec<Line>, count: usize) -> &mut [[U; LANES]] {
    const { assert!(size_of::<[U; LANES]>() == size_of::<Line>()) };
    grow(memory, count);
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
}

#[inline(always)]
fn grow(memory: &mut Vec<Line>, count: usize) {
    if memory.len() < count {
        memory.resize(count, Line::default());
    }
}
