//! What C programs hold in place of pointers: numbers that are never used twice.

use std::sync::{Arc, PoisonError, RwLock};

/// A table of values and the handles that they are known by. A handle is the kind of the value, the
/// number of a place and how often the place was used: one that was closed, or made up, or is of
/// another table, names nothing.
pub(crate) struct Handles<T> {
    kind: u8,
    places: RwLock<Vec<Place<T>>>,
}

/// Bits of the number of a place; those above it are the kind's.
const PLACES: u32 = 24;

struct Place<T> {
    uses: u32,
    value: Option<Arc<T>>,
}

impl<T> Handles<T> {
    /// An empty table of values of a kind, which no other table has.
    pub(crate) const fn new(kind: u8) -> Self {
        Self { kind, places: RwLock::new(Vec::new()) }
    }

    /// A handle for a value.
    pub(crate) fn open(&self, value: T) -> u64 {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let value = Some(Arc::new(value));
        // A place whose uses are all counted is left alone.
        let free = places.iter().position(|place| place.value.is_none() && place.uses < u32::MAX);
        let at = free.unwrap_or_else(|| {
            assert!(places.len() < 1 << PLACES, "fewer than {} open handles", 1 << PLACES);
            places.push(Place { uses: 0, value: None });
            places.len() - 1
        });
        let place = &mut places[at];
        place.value = value;
        place.uses += 1;
        u64::from(place.uses) << 32 | u64::from(self.kind) << PLACES | at as u64
    }

    /// The value of a handle.
    pub(crate) fn get(&self, handle: u64) -> Option<Arc<T>> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let place = places.get(self.at(handle)?).filter(|place| place.uses == uses(handle))?;
        place.value.clone()
    }

    /// Takes the value of a handle away; whether there was one.
    pub(crate) fn close(&self, handle: u64) -> bool {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let place = self.at(handle).and_then(|at| places.get_mut(at));
        let place = place.filter(|place| place.uses == uses(handle));
        let closed = place.and_then(|place| place.value.take());
        drop(places);
        // A large value is freed when nobody waits for the table.
        closed.is_some()
    }

    /// The place that a handle of this table names.
    fn at(&self, handle: u64) -> Option<usize> {
        let number = handle & u64::from(u32::MAX);
        (number >> PLACES == u64::from(self.kind)).then_some((number & ((1 << PLACES) - 1)) as usize)
    }
}

fn uses(handle: u64) -> u32 {
    (handle >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_never_used_twice() {
        let handles = Handles::new(1);
        let (a, b) = (handles.open('a'), handles.open('b'));
        assert_eq!((handles.get(a).as_deref(), handles.get(b).as_deref()), (Some(&'a'), Some(&'b')));
        assert!(handles.close(a) && !handles.close(a));
        assert_eq!(handles.get(a), None);
        let c = handles.open('c');
        assert!(c != a && c as u32 == a as u32, "the place is used again, with another handle");
        assert_eq!(handles.get(a), None);
        let other = Handles::new(2);
        other.open('d');
        assert_eq!(other.get(a), None, "a handle of another table");
        for made_up in [0, 1, 7, u64::MAX, c + (1 << 32)] {
            assert!(handles.get(made_up).is_none() && !handles.close(made_up));
        }
    }
}
