//! Signs of life: each rank gives one a second, and looks at those that it depends on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{BEAT, Look};
use crate::ending::Farewell;
use crate::seal::Seal;
use crate::{Error, Launch};

/// How far a rank is: a number that grows as long as it gets on.
#[derive(Clone)]
pub(crate) struct Progress {
    /// Of what it does by itself.
    own: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Of others that it waits for: who waits for somebody who gets on does not hang.
    others: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new(own: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { own: Arc::new(own), others: Arc::default() }
    }

    /// Notes that another rank got on, which this one waits for.
    pub(crate) fn note_other(&self) {
        self.others.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        (self.own)().wrapping_add(self.others.load(Ordering::Relaxed))
    }
}

/// Where ranks of a session leave signs of life, and word why they go.
#[derive(Clone)]
pub(crate) struct Places {
    /// How the keys of the session begin.
    pub(crate) prefix: String,
    pub(crate) seal: Seal,
}

impl Places {
    pub(crate) fn beat(&self, rank: usize) -> String {
        format!("{}/beat/{rank}", self.prefix)
    }

    pub(crate) fn end(&self, rank: usize) -> String {
        format!("{}/end/{rank}", self.prefix)
    }

    pub(crate) fn gone(&self, rank: usize) -> String {
        format!("{}/gone/{rank}", self.prefix)
    }

    /// A sign of life as it lies at its place: its number, and how far the rank is.
    pub(crate) fn sign(&self, rank: usize, number: u64, progress: &Progress) -> Vec<u8> {
        let numbers = [number, progress.now()].map(u64::to_le_bytes);
        self.seal.close(&self.beat(rank), numbers.as_flattened())
    }

    /// How far a rank says that it is; what is no sign of life of it says nothing.
    pub(crate) fn read_sign(&self, rank: usize, value: Option<&[u8]>) -> Option<[u64; 2]> {
        let message = self.seal.open(&self.beat(rank), value?)?;
        let (numbers, rest) = message.as_chunks::<8>();
        let numbers: [[u8; 8]; 2] = numbers.try_into().ok().filter(|_| rest.is_empty())?;
        Some(numbers.map(u64::from_le_bytes))
    }

    /// Why a rank went, if it left word.
    pub(crate) fn read_end(&self, rank: usize, value: Option<&[u8]>) -> Option<Farewell> {
        // What nobody of us wrote ends nothing.
        serde_json::from_slice(self.seal.open(&self.end(rank), value?)?).ok()
    }
}

/// A number that should change, and when it did last.
pub(crate) struct Changing {
    last: Option<u64>,
    since: Instant,
}

impl Changing {
    pub(crate) fn new() -> Self {
        Self { last: None, since: Instant::now() }
    }

    /// Notes the number; says whether it is another than before.
    pub(crate) fn note(&mut self, number: Option<u64>) -> bool {
        let changed = number.is_some() && number != self.last;
        if changed {
            (self.last, self.since) = (number, Instant::now());
        }
        changed
    }

    pub(crate) fn unchanged_for(&self) -> Duration {
        self.since.elapsed()
    }
}

/// What became of the group while this rank was busy.
#[derive(Clone, Default)]
pub(crate) struct Lost(Arc<Mutex<Option<Error>>>);

impl Lost {
    pub(crate) fn get(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// The ranks that this one depends on: of the first rank all others, of another the first.
pub(crate) struct Vigil {
    places: Places,
    watched: Vec<(usize, Changing)>,
    silence: Duration,
    of_store: Box<dyn Fn(String) -> Error + Send>,
    lost: Lost,
    on_loss: Arc<dyn Fn() + Send + Sync>,
    /// How often it has looked.
    looks: Arc<AtomicU64>,
}

impl Vigil {
    pub(crate) fn new(
        launch: &Launch,
        places: Places,
        silence: Duration,
        of_store: impl Fn(String) -> Error + Send + 'static,
        lost: Lost,
        on_loss: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let watched = if launch.rank == 0 { 1..launch.world_size } else { 0..1 };
        let watched = watched.map(|rank| (rank, Changing::new())).collect();
        let (of_store, looks) = (Box::new(of_store), Arc::default());
        Self { places, watched, silence, of_store, lost, on_loss, looks }
    }

    /// Has another thread notice if this one looks no more: where the store's machine is gone, a
    /// call into it may never come back.
    pub(crate) fn guard(
        &self,
        of_store: impl FnOnce(String) -> Error + Send + 'static,
    ) -> std::io::Result<()> {
        let looks = Arc::downgrade(&self.looks);
        let (lost, on_loss) = (self.lost.clone(), Arc::clone(&self.on_loss));
        let patience = self.silence + BEAT * 2;
        let guard = move || {
            let mut last = Changing::new();
            // As long as anybody is to look.
            while let Some(looks) = looks.upgrade() {
                last.note(Some(looks.load(Ordering::Relaxed)));
                if last.unchanged_for() > patience {
                    lost.set(of_store(format!("no answer for {} s", patience.as_secs())));
                    on_loss();
                    return;
                }
                drop(looks);
                std::thread::sleep(BEAT);
            }
        };
        std::thread::Builder::new().name("ranks guard".to_owned()).spawn(guard).map(drop)
    }

    /// Looks at all of them once.
    pub(crate) fn look(&mut self, get: &mut Look) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        if self.lost.get().is_some() {
            return;
        }
        let Self { places, watched, silence, .. } = self;
        let found = watched.iter_mut().find_map(|watched| {
            lost(places, watched, *silence, get).unwrap_or_else(|problem| Some((self.of_store)(problem)))
        });
        if let Some(error) = found {
            self.lost.set(error);
            (self.on_loss)();
        }
    }
}

/// Why a rank is lost, if it is.
fn lost(
    places: &Places,
    (rank, beats): &mut (usize, Changing),
    silence: Duration,
    get: &mut Look,
) -> Result<Option<Error>, String> {
    let rank = *rank;
    if let Some(farewell) = places.read_end(rank, get(&places.end(rank))?.as_deref()) {
        return Ok(Some(farewell.into()));
    }
    let sign = get(&places.beat(rank))?;
    beats.note(places.read_sign(rank, sign.as_deref()).map(|[number, _]| number));
    // Who went in peace is not lost.
    let is_silent = beats.unchanged_for() > silence && get(&places.gone(rank))?.is_none();
    Ok(is_silent.then_some(Error::Silent { rank, seconds: silence.as_secs() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_one_of_its_rank_in_its_session() {
        let places = |nonce: &[u8]| Places {
            prefix: "session".to_owned(),
            seal: Seal::new(b"a secret of ours").of_session(nonce),
        };
        let progress = Progress::new(|| 5);
        progress.note_other();
        let here = places(b"today");
        let sign = here.sign(2, 7, &progress);
        assert_eq!(here.read_sign(2, Some(&sign)), Some([7, 6]));
        for (places, rank, sign) in [
            (&here, 1, &sign[..]),
            (&places(b"yesterday"), 2, &sign[..]),
            (&here, 2, &sign[..sign.len() - 1]),
            (&here, 2, &[][..]),
        ] {
            assert_eq!(places.read_sign(rank, Some(sign)), None);
        }
        assert_eq!(here.read_sign(2, None), None);
    }
}
