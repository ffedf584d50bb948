//! Memory that is used again and again: allocating it anew would take longer than filling it. What it holds at first is
//! whatever it was filled with before.

use super::element::Element;
use super::simd::{LANES, Vector};

/// Sixteen numbers of four bytes, or as many pairs of two.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(Vector);

/// Memory for `count` lines.
#[inline(always)]
pub(super) fn lines<U>(memory: &mut Vec<Line>, count: usize) -> &mut [[U; LANES]] {
    const { assert!(size_of::<[U; LANES]>() == size_of::<Line>()) };
    grow(memory, count);
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
}

/// Memory for `count` numbers.
#[inline(always)]
pub(super) fn numbers<T: Element>(memory: &mut Vec<Line>, count: usize) -> &mut [T] {
    grow(memory, (count * size_of::<T>()).div_ceil(size_of::<Line>()));
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
}

#[inline(always)]
fn grow(memory: &mut Vec<Line>, count: usize) {
    if memory.len() < count {
        memory.resize(count, Line::default());
    }
}
