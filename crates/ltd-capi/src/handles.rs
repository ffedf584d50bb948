//! What C programs hold in place of pointers: numbers that are never used twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The handles that were given out, of all tables: one that was closed, or made up, or is of
/// another table, names nothing.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// 2^64 over the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Values and the handles that they are known by.
pub(crate) struct Handles<T>(RwLock<BTreeMap<u64, Arc<T>>>);

impl<T> Handles<T> {
    pub(crate) const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// A handle for a value; never 0.
    pub(crate) fn open(&self, value: T) -> u64 {
        // An odd factor gives each number another one; small ones, which are made up most easily,
        // are spread far apart.
        let handle = (GIVEN.fetch_add(1, Ordering::Relaxed) + 1).wrapping_mul(SPREAD);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(value));
        handle
    }

    /// The value of a handle.
    pub(crate) fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Takes the value of a handle away; whether there was one.
    pub(crate) fn close(&self, handle: u64) -> bool {
        let closed = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        // The value is freed here, when nobody waits for the table any more.
        closed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_never_used_twice() {
        let (handles, others) = (Handles::new(), Handles::new());
        let (a, b, other) = (handles.open('a'), handles.open('b'), others.open('c'));
        assert_eq!((handles.get(a).as_deref(), handles.get(b).as_deref()), (Some(&'a'), Some(&'b')));
        assert!(handles.close(a) && !handles.close(a));
        let next = handles.open('d');
        assert!(![a, b, other].contains(&next));
        for none in [0, 1, 2, a, other, next + 1, u64::MAX] {
            assert!(handles.get(none).is_none() && !handles.close(none));
        }
    }
}
