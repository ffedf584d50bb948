//! Ranks that speak in lockstep.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Ask, Client, Watch};
use crate::ending::Farewell;
use crate::fact::difference;
use crate::link::{Link, Traffic};
use crate::seal::Seal;
use crate::vigil::{Lost, Places, Progress, Vigil};
use crate::{Ending, Error, Fact, Launch, Result};

/// Without a sign of life for so long, a rank is taken for dead.
const SILENCE: Duration = Duration::from_secs(30);
/// How long ranks wait for the last one to join, at most.
const JOINING: Duration = Duration::from_secs(300);
/// How long a rank that serves the store stays for the others to read why it goes.
const FAREWELL: Duration = Duration::from_secs(10);

/// The ranks of a run. All of them call the same methods in the same order; what is named `what` is
/// for messages to people.
pub struct Group {
    rank: usize,
    size: usize,
    /// Whether the store is gone when this rank goes.
    serves: bool,
    link: Option<Link>,
}

/// What a rank is busy with, as its group sees it.
pub struct Work {
    /// Whether there is a wish to stop.
    pub stop: Box<dyn Fn() -> bool>,
    /// A number that grows as long as the work gets on.
    pub progress: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Called, from another thread, when the group is lost: the work should end.
    pub on_loss: Box<dyn Fn() + Send + Sync>,
}

impl Work {
    /// Work that nothing stops, and that always gets on.
    pub fn unstoppable() -> Self {
        let looks = AtomicU64::new(0);
        let progress = Box::new(move || looks.fetch_add(1, Ordering::Relaxed));
        Self { stop: Box::new(|| false), progress, on_loss: Box::new(|| ()) }
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl Group {
    /// A single rank, which has nobody to speak to.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, serves: false, link: None }
    }

    /// Joins the others. `facts` are what must be the same everywhere.
    ///
    /// # Errors
    /// If the store cannot be served or reached, a rank does not come, has another secret, or other
    /// facts.
    pub fn join(launch: &Launch, facts: &[Fact], work: Work) -> Result<Self> {
        let Launch { rank, world_size, timeout, .. } = *launch;
        let Work { stop, progress, on_loss } = work;
        let size = Fact::new("WORLD_SIZE", world_size.to_string());
        let facts = &[&[size], facts].concat()[..];
        let (server, address) = (launch.server(), launch.address());
        let of_store = {
            let address = address.clone();
            move |problem| Link::of_store(server, address.clone(), problem)
        };
        let (silence, joining) = (SILENCE.min(timeout), JOINING.min(timeout));
        let (host, listener) = (launch.meeting_host(), launch.listener()?);
        let client = Client::open(host, launch.port, listener, joining, silence).map_err(&of_store)?;
        let run = format!("ltd/{}", launch.run_id);
        let seal = Seal::new(&launch.secret);
        let mut link = Link {
            client,
            server,
            address,
            places: Places { prefix: format!("{run}/{}", launch.restarts), seal: seal.clone() },
            lasting: Places { prefix: run, seal },
            next: Cell::new(0),
            said: RefCell::default(),
            traffic: Cell::default(),
            timeout,
            stop,
            progress: Progress::new(progress),
            lost: Lost::default(),
            ended: Cell::new(false),
        };
        let joined = if rank == 0 {
            link.welcome(world_size, facts, joining)
        } else {
            link.knock(rank, world_size, facts, joining)
        };
        let joined = joined.and_then(|()| {
            let (places, lost) = (link.places.clone(), link.lost.clone());
            let guarded = of_store.clone();
            let mut vigil = Vigil::new(launch, places.clone(), silence, of_store, lost, on_loss.into());
            vigil.guard(guarded.clone()).map_err(|error| guarded(error.to_string()))?;
            let progress = link.progress.clone();
            let watch = Watch {
                beat: places.beat(rank),
                sign: Box::new(move |number| places.sign(rank, number, &progress)),
                look: Box::new(move |get| vigil.look(get)),
            };
            link.ask(Ask::Watch(watch)).map(drop)
        });
        let group = Self { rank, size: world_size, serves: rank == 0 && !launch.served, link: Some(link) };
        match joined {
            Ok(()) => Ok(group),
            Err(error) => {
                group.leave(Some(&error));
                Err(error)
            }
        }
    }

    /// Why the group is at its end, if this rank was told or saw it while it was busy.
    pub fn lost(&self) -> Option<Error> {
        self.link.as_ref().and_then(|link| link.lost.get())
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the first rank, which writes what the run leaves.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// What went through the store so far.
    pub fn traffic(&self) -> Traffic {
        self.link.as_ref().map_or_else(Traffic::default, |link| link.traffic.get())
    }

    /// The first rank's bytes, everywhere. Other ranks' are not looked at.
    ///
    /// # Errors
    /// If a rank fails, dies or hangs, or there is a wish to stop.
    pub fn broadcast(&self, what: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(link) = &self.link else { return Ok(bytes) };
        let number = link.take_number();
        if self.leads() {
            let parts = link.send(&format!("{number}"), what, 0, &bytes)?;
            link.said.borrow_mut().push_back((number, parts));
            return Ok(bytes);
        }
        link.receive(&format!("{number}"), what, 0, false)
    }

    /// Everybody's bytes, by rank, at the first rank; nothing at the others.
    ///
    /// # Errors
    /// As [`Group::broadcast`].
    pub fn gather(&self, what: &str, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(link) = &self.link else { return Ok(Some(vec![bytes])) };
        let number = link.take_number();
        if !self.leads() {
            link.send(&format!("{number}/{}", self.rank), what, self.rank, &bytes)?;
            return Ok(None);
        }
        let mut all = vec![bytes];
        for rank in 1..self.size {
            all.push(link.receive(&format!("{number}/{rank}"), what, rank, true)?);
        }
        // Whoever sent this has read all that was said before.
        for (number, parts) in link.said.borrow_mut().drain(..) {
            for part in 0..parts {
                link.ask(Ask::Delete(link.key(&format!("{number}"), part)))?;
            }
        }
        Ok(Some(all))
    }

    /// Everybody's bytes, by rank, everywhere.
    ///
    /// # Errors
    /// As [`Group::broadcast`].
    pub fn all_gather(&self, what: &str, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let gathered = self.gather(what, bytes)?;
        // Each by itself: together they may be more than a message holds.
        let gathered = gathered.unwrap_or_else(|| vec![Vec::new(); self.size]);
        gathered.into_iter().map(|bytes| self.broadcast(what, bytes)).collect()
    }

    /// Comes back when all ranks have come here.
    ///
    /// # Errors
    /// As [`Group::broadcast`].
    pub fn barrier(&self, what: &str) -> Result<()> {
        self.gather(what, Vec::new())?;
        self.broadcast(what, Vec::new())?;
        Ok(())
    }

    /// What `make` gives at the first rank, everywhere; elsewhere it is not called.
    ///
    /// # Errors
    /// Of `make`, and as [`Group::broadcast`].
    pub fn from_first<T, E>(&self, what: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        if self.link.is_none() {
            return make();
        }
        if self.leads() {
            let value = make()?;
            let bytes = serde_json::to_vec(&value).expect("invariant: it is plain data");
            self.broadcast(what, bytes)?;
            return Ok(value);
        }
        let bytes = self.broadcast(what, Vec::new())?;
        let value = serde_json::from_slice(&bytes).map_err(|error| Error::Message {
            rank: 0,
            what: what.to_owned(),
            problem: error.to_string(),
        });
        Ok(value?)
    }

    /// Fails everywhere unless all ranks have the same facts.
    ///
    /// # Errors
    /// If they differ, which names the first one that does; and as [`Group::broadcast`].
    pub fn agree(&self, what: &str, facts: &[Fact]) -> Result<()> {
        let bytes = serde_json::to_vec(facts).expect("invariant: facts are plain data");
        let gathered = self.gather(what, bytes)?;
        let difference = gathered.and_then(|all| {
            let mut others = all.iter().enumerate().skip(1);
            others.find_map(|(rank, bytes)| difference(rank, bytes, facts))
        });
        let difference = self.from_first(what, || Ok::<_, Error>(difference))?;
        difference.map_or(Ok(()), |difference| Err(Error::Differs(difference)))
    }

    /// Leaves word for ranks that are started again: a launcher that serves the store keeps it. The
    /// first rank's counts.
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub fn remember(&self, name: &str, value: &[u8]) -> Result<()> {
        let Some(link) = self.link.as_ref().filter(|_| self.leads()) else { return Ok(()) };
        let key = format!("{}/{name}", link.lasting.prefix);
        let sealed = link.lasting.seal.close(&key, value);
        link.ask(Ask::Set(key, sealed))?;
        Ok(())
    }

    /// What the first rank of an earlier attempt left word of, everywhere.
    ///
    /// # Errors
    /// As [`Group::broadcast`].
    pub fn recall(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(link) = &self.link else { return Ok(None) };
        self.from_first(name, || {
            let key = format!("{}/{name}", link.lasting.prefix);
            let Some(found) = link.peek(key.clone())? else { return Ok(None) };
            let secret = || Error::Secret { rank: 0, what: format!("{name} of an earlier attempt") };
            Ok(Some(link.lasting.seal.open(&key, &found).ok_or_else(secret)?.to_vec()))
        })
    }

    /// Ends the group here: with an error, the others learn why. The first rank stays a moment for
    /// them to read it.
    pub fn leave(&self, error: Option<&dyn Ending>) {
        let Some(link) = &self.link else { return };
        if link.ended.replace(true) {
            return;
        }
        if let Some(error) = error {
            let farewell = Farewell::of(self.rank, error);
            let bytes = serde_json::to_vec(&farewell).expect("invariant: it is plain data");
            let key = link.places.end(self.rank);
            // Nobody may be there to take it.
            let _ = link.client.ask(Ask::Set(key.clone(), link.places.seal.close(&key, &bytes)));
        }
        if self.serves {
            // Nobody waits for the dead.
            let dead = match self.lost() {
                Some(Error::Silent { rank, .. }) => Some(rank),
                _ => None,
            };
            let until = Instant::now() + FAREWELL;
            for rank in (1..self.size).filter(|rank| Some(*rank) != dead) {
                let rest = until.saturating_duration_since(Instant::now());
                if rest.is_zero() {
                    break;
                }
                let _ = link.client.ask(Ask::Await(link.places.gone(rank), rest));
            }
        } else {
            let _ = link.client.ask(Ask::Set(link.places.gone(self.rank), vec![1]));
        }
    }
}

impl Drop for Group {
    /// The others may still read what this rank said last.
    fn drop(&mut self) {
        let panicked = Error::Failed { rank: self.rank, reason: "it panicked".to_owned(), usage: false };
        self.leave(std::thread::panicking().then_some(&panicked as _));
    }
}
