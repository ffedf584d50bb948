//! First step of the attention: keys and values of the new rows go into the cache.

use std::any::TypeId;

use super::super::element::Element;
use super::super::simd::{Instructions, Kernel};
use super::super::sums::Sums;
use super::rotation::rotate;
use super::{KEYS, Number, Shared, VALUES};

/// Rotates and stores the keys of a key head, or stores its values: an item each, keys first. What [`Sums`] cannot read
/// from the cache is also laid out for them.
pub(super) struct Storing<'s, 't, T>(pub(super) &'s Shared<'t, T>);

impl<T: Element> Kernel for Storing<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, item: usize) {
        let keys = self.0.heads.keys;
        if item < keys { self.keys::<I>(item) } else { self.values::<I>(item - keys) }
    }
}

impl<T: Element> Storing<'_, '_, T> {
    #[inline(always)]
    fn keys<I: Instructions>(&self, head: usize) {
        let shared = self.0;
        let norm = shared.norms.map(|(_, key, eps)| (key, eps));
        for row in 0..shared.rows {
            let output = unsafe { shared.cache(KEYS, head, shared.past + row, 1) };
            let input = shared.input(row, shared.heads.queries + head);
            rotate::<I, T, T>(input, norm, shared.angles(row), 1.0, output);
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(KEYS) {
            let (keys, units) = unsafe {
                (shared.cache(KEYS, head, 0, shared.total()), shared.cached::<T::Sums<I>>(KEYS, head))
            };
            assert!(T::Sums::<I>::NUMBERS == 1, "invariant: pairs are of the model's own type");
            for (unit, key) in units.iter_mut().zip(keys) {
                let number = number::<T, I>(*key);
                *unit = T::Sums::<I>::unit(number, number);
            }
        }
    }

    #[inline(always)]
    fn values<I: Instructions>(&self, head: usize) {
        let (shared, width) = (self.0, self.0.heads.width);
        for row in 0..shared.rows {
            let output = unsafe { shared.cache(VALUES, head, shared.past + row, 1) };
            output.copy_from_slice(shared.input(row, shared.heads.queries + shared.heads.keys + head));
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(VALUES) {
            let (values, units) = unsafe {
                (shared.cache(VALUES, head, 0, shared.total()), shared.cached::<T::Sums<I>>(VALUES, head))
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
