//! Keys and values as they are multiplied. Some can be read from the cache; others are laid out by
//! each thread for itself, when it comes to a head: from the core of another thread they would take
//! longer to come.

use std::any::TypeId;

use super::shared::{Number, Shared, Unit};
use crate::element::Element;
use crate::memory::{Line, cast, lines};
use crate::sums::Sums;
use crate::vector::{Instructions, LANES};

/// Keys and values of one head of one forward.
#[derive(Default)]
pub(super) struct Units {
    /// Number of the forward, and the head.
    of: Option<(u64, usize)>,
    keys: Vec<Line>,
    values: Vec<Line>,
}

impl Units {
    /// Keys as units `[total, width in units]`, values as units `[total in units, width]`, of what
    /// the caches hold of a head, each `[total, width]`.
    #[inline(always)]
    pub(super) fn of<'u, I: Instructions, T: Element>(
        &'u mut self,
        shared: &Shared<T>,
        head: usize,
        [keys, values]: [&'u [T]; 2],
    ) -> [&'u [Unit<T, I>]; 2] {
        let (width, total) = (shared.heads.width, shared.total());
        let numbers = T::Sums::<I>::NUMBERS;
        let alike = TypeId::of::<T>() == TypeId::of::<Number<T, I>>();
        let new = self.of.replace((shared.forward, head)) != Some((shared.forward, head));
        let keys = if alike {
            as_units::<I, T>(keys)
        } else {
            assert!(numbers == 1, "invariant: pairs are of the model's own type");
            let units = lines::<Unit<T, I>>(&mut self.keys, keys.len().div_ceil(LANES)).as_flattened_mut();
            if new {
                lay_out::<I, T>(keys, &[], units);
            }
            &units[..keys.len()]
        };
        // Numbers that are multiplied together are neighbours.
        let values = if alike && numbers == 1 {
            as_units::<I, T>(values)
        } else {
            let count = total.div_ceil(numbers) * width;
            let units = lines::<Unit<T, I>>(&mut self.values, count.div_ceil(LANES)).as_flattened_mut();
            if new {
                for (units, rows) in units.chunks_exact_mut(width).zip(values.chunks(numbers * width)) {
                    let (first, second) = rows.split_at(width);
                    lay_out::<I, T>(first, second, units);
                }
            }
            &units[..count]
        };
        [keys, values]
    }
}

/// Numbers that are multiplied as they are.
#[inline(always)]
fn as_units<I: Instructions, T: Element>(numbers: &[T]) -> &[Unit<T, I>] {
    assert!(TypeId::of::<T>() == TypeId::of::<Number<T, I>>());
    cast(numbers)
}

/// Puts two rows together, or one alone.
#[inline(always)]
fn lay_out<I: Instructions, T: Element>(first: &[T], second: &[T], units: &mut [Unit<T, I>]) {
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

/// A number of the cache as it is multiplied. One of the right type is copied as it is: the detour
/// over f32 would cost a rounding that changes nothing.
#[inline(always)]
fn number<T: Element, I: Instructions>(value: T) -> Number<T, I> {
    if TypeId::of::<T>() == TypeId::of::<Number<T, I>>() {
        cast::<T, Number<T, I>>(&[value])[0]
    } else {
        Element::from_f32(value.to_f32())
    }
}
