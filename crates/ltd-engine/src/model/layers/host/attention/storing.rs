//! First step of the attention: keys and values of the new rows go into the cache.

use super::super::element::Element;
use super::super::parallel::Work;
use super::super::simd::{Instructions, Kernel, dispatch_to};
use super::rotation::rotate;
use super::{KEYS, Shared, VALUES};

/// Rotates and stores new keys, and stores new values; an item is a key head.
pub(super) struct Storing<'s, 't, T>(pub(super) &'s Shared<'t, T>);

impl<T: Element> Work for Storing<'_, '_, T> {
    fn items(&self) -> usize {
        self.0.heads.keys
    }

    fn item(&self, head: usize, _: Option<usize>) {
        dispatch_to(self.0.instructions, self, head);
    }
}

impl<T: Element> Kernel for Storing<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, head: usize) {
        let shared = self.0;
        let norm = shared.norms.map(|[_, key]| key);
        let (first_key, first_value) = (shared.heads.queries, shared.heads.queries + shared.heads.keys);
        for row in 0..shared.rows {
            let [key, value] =
                [KEYS, VALUES].map(|which| unsafe { shared.cache(which, head, shared.past + row, 1) });
            let input = shared.input(row, first_key + head);
            rotate::<I, T, T>(input, norm, shared.angles(row), 1.0, key);
            value.copy_from_slice(shared.input(row, first_value + head));
        }
    }
}
