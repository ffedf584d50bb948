//! First step of the attention: keys and values of the new rows go into the cache.

use super::rotation::rotate;
use super::shared::Shared;
use crate::element::Element;
use crate::threads::Work;
use crate::vector::{Instructions, Kernel};

/// Rotates and stores new keys, and stores new values; an item is a key head.
pub(super) struct Storing<'s, 't, T>(pub(super) &'s Shared<'t, T>);

impl<T: Element> Work for Storing<'_, '_, T> {
    fn items(&self) -> usize {
        self.0.heads.keys
    }

    unsafe fn item(&self, head: usize, _: Option<usize>) {
        let shared = self.0;
        let (start, count) = (shared.place(head, shared.past), shared.rows * shared.heads.width);
        // SAFETY: The projections are there and nobody writes to them any more. The cache has room
        // for the new rows, which stand one after another in a head's part of it; a head is one
        // item.
        let (qkv, [keys, values]) =
            unsafe { (shared.qkv.read(), shared.caches.map(|cache| cache.part(start, count))) };
        shared.instructions.run(NewRows { shared, head, qkv, keys, values });
    }
}

/// The new rows of a key head, and where they go.
struct NewRows<'s, 't, T> {
    shared: &'s Shared<'t, T>,
    head: usize,
    qkv: &'s [T],
    keys: &'s mut [T],
    values: &'s mut [T],
}

impl<T: Element> Kernel for NewRows<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let Self { shared, head, qkv, keys, values } = self;
        let width = shared.heads.width;
        let norm = shared.norms.map(|[_, key]| key);
        let (first_key, first_value) = (shared.heads.queries, shared.heads.queries + shared.heads.keys);
        let cached = keys.chunks_exact_mut(width).zip(values.chunks_exact_mut(width));
        for (row, (key, value)) in cached.enumerate() {
            let input = shared.input(qkv, row, first_key + head);
            rotate::<I, T, T>(input, norm, shared.angles(row), 1.0, key);
            value.copy_from_slice(shared.input(qkv, row, first_value + head));
        }
    }
}
