//! What C programs hold in place of pointers: numbers that are never used twice.

use std::sync::{Arc, PoisonError, RwLock};

/// A table of values and the handles that they are known by. A handle is the number of a place and
/// how often the place was used: one that was closed, or made up, names nothing.
pub(crate) struct Handles<T> {
    places: RwLock<Vec<Place<T>>>,
}

struct Place<T> {
    uses: u32,
    value: Option<Arc<T>>,
}

impl<T> Handles<T> {
    pub(crate) const fn new() -> Self {
        Self { places: RwLock::new(Vec::new()) }
    }

    /// A handle for a value.
    pub(crate) fn open(&self, value: T) -> u64 {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let value = Some(Arc::new(value));
        // A place whose uses are all counted is left alone.
        let free = places.iter().position(|place| place.value.is_none() && place.uses < u32::MAX);
        let at = free.unwrap_or_else(|| {
            places.push(Place { uses: 0, value: None });
            places.len() - 1
        });
        let place = &mut places[at];
        place.value = value;
        place.uses += 1;
        u64::from(place.uses) << 32 | at as u64
    }

    /// The value of a handle.
    pub(crate) fn get(&self, handle: u64) -> Option<Arc<T>> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let place = places.get(at(handle)).filter(|place| place.uses == uses(handle))?;
        place.value.clone()
    }

    /// Takes the value of a handle away; whether there was one.
    pub(crate) fn close(&self, handle: u64) -> bool {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let place = places.get_mut(at(handle)).filter(|place| place.uses == uses(handle));
        let closed = place.and_then(|place| place.value.take());
        drop(places);
        // A large value is freed when nobody waits for the table.
        closed.is_some()
    }
}

fn at(handle: u64) -> usize {
    (handle & u64::from(u32::MAX)) as usize
}

fn uses(handle: u64) -> u32 {
    (handle >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_never_used_twice() {
        let handles = Handles::new();
        let (a, b) = (handles.open('a'), handles.open('b'));
        assert_eq!((handles.get(a).as_deref(), handles.get(b).as_deref()), (Some(&'a'), Some(&'b')));
        assert!(handles.close(a) && !handles.close(a));
        assert_eq!(handles.get(a), None);
        let c = handles.open('c');
        assert!(c != a && c as u32 == a as u32, "the place is used again, with another handle");
        assert_eq!(handles.get(a), None);
        for made_up in [0, 1, 7, u64::MAX, c + (1 << 32)] {
            assert!(handles.get(made_up).is_none() && !handles.close(made_up));
        }
    }
}
