//! First step of the attention: keys and values of the new rows go into the cache.

use std::any::TypeId;
use std::ops::Range;

use super::super::element::Element;
use super::super::parallel::Work;
use super::super::simd::{Instructions, Kernel, dispatch_to};
use super::super::sums::Sums;
use super::rotation::rotate;
use super::{KEYS, Number, Shared, VALUES};

/// Positions of an item: few enough for threads to share one head.
const POSITIONS: usize = 128;

/// Rotates and stores new keys, or stores new values. What [`Sums`] cannot read from the cache is also laid out for them.
pub(super) struct Storing<'s, 't, T> {
    shared: &'s Shared<'t, T>,
    /// Parts that the positions are divided into; an item is a part of a key head's keys or values.
    parts: usize,
}

impl<'s, 't, T: Element> Storing<'s, 't, T> {
    pub(super) fn new(shared: &'s Shared<'t, T>) -> Self {
        Self { shared, parts: shared.total().div_ceil(POSITIONS) }
    }
}

impl<T: Element> Work for Storing<'_, '_, T> {
    fn items(&self) -> usize {
        2 * self.shared.heads.keys * self.parts
    }

    fn item(&self, item: usize) {
        dispatch_to(self.shared.instructions, self, item);
    }
}

impl<T: Element> Kernel for Storing<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, item: usize) {
        let (head, part) = (item / self.parts, item % self.parts);
        let positions = part * POSITIONS..((part + 1) * POSITIONS).min(self.shared.total());
        let keys = self.shared.heads.keys;
        // Values first: they take longer.
        if head < keys { self.values::<I>(head, positions) } else { self.keys::<I>(head - keys, positions) }
    }
}

impl<T: Element> Storing<'_, '_, T> {
    /// The new rows among some positions.
    #[inline(always)]
    fn new_rows(&self, positions: &Range<usize>) -> Range<usize> {
        let past = self.shared.past;
        positions.start.saturating_sub(past)..positions.end.saturating_sub(past)
    }

    #[inline(always)]
    fn keys<I: Instructions>(&self, head: usize, positions: Range<usize>) {
        let shared = self.shared;
        let norm = shared.norms.map(|[_, key]| key);
        for row in self.new_rows(&positions) {
            let output = unsafe { shared.cache(KEYS, head, shared.past + row, 1) };
            let input = shared.input(row, shared.heads.queries + head);
            rotate::<I, T, T>(input, norm, shared.angles(row), 1.0, output);
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(KEYS) {
            assert!(T::Sums::<I>::NUMBERS == 1, "invariant: pairs are of the model's own type");
            let (keys, units) = unsafe {
                let keys = shared.cache(KEYS, head, positions.start, positions.len());
                (keys, shared.cached::<T::Sums<I>>(KEYS, head, positions))
            };
            for (unit, key) in units.iter_mut().zip(keys) {
                let number = number::<T, I>(*key);
                *unit = T::Sums::<I>::unit(number, number);
            }
        }
    }

    #[inline(always)]
    fn values<I: Instructions>(&self, head: usize, positions: Range<usize>) {
        let (shared, width) = (self.shared, self.shared.heads.width);
        for row in self.new_rows(&positions) {
            let output = unsafe { shared.cache(VALUES, head, shared.past + row, 1) };
            output.copy_from_slice(shared.input(row, shared.heads.queries + shared.heads.keys + head));
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(VALUES) {
            let (values, units) = unsafe {
                let values = shared.cache(VALUES, head, positions.start, positions.len());
                (values, shared.cached::<T::Sums<I>>(VALUES, head, positions))
            };
            let rows = values.chunks(T::Sums::<I>::NUMBERS * width);
            for (units, rows) in units.chunks_exact_mut(width).zip(rows) {
                let (first, second) = rows.split_at(width);
                if second.is_empty() {
                    for (unit, first) in units.iter_mut().zip(first) {
                        *unit = T::Sums::<I>::unit(number::<T, I>(*first), Number::<T, I>::default());
                    }
                } else {
                    for ((unit, first), second) in units.iter_mut().zip(first).zip(second) {
                        *unit = T::Sums::<I>::unit(number::<T, I>(*first), number::<T, I>(*second));
                    }
                }
            }
        }
    }
}

/// A number of the cache as it is multiplied. One of the right type is copied as it is: the detour over f32 would cost
/// a rounding that changes nothing.
#[inline(always)]
fn number<T: Element, I: Instructions>(value: T) -> Number<T, I> {
    if TypeId::of::<T>() == TypeId::of::<Number<T, I>>() {
        unsafe { std::mem::transmute_copy(&value) }
    } else {
        Element::from_f32(value.to_f32())
    }
}
