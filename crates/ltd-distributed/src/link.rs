//! Messages between ranks, in parts, sealed, by way of the store.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use crate::client::{Ask, Client};
use crate::vigil::{Changing, Lost, Places, Progress};
use crate::{Error, Result};

/// Bytes of a part of a message; longer ones travel in several.
const PART: usize = 4 << 20;
/// Bytes of a message at most.
const LONGEST: usize = 1 << 30;
/// How long one question to the store waits before others are asked.
pub(crate) const SLICE: Duration = Duration::from_millis(500);

/// What went through the store from and to this rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages sent.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// Bytes sent, seals included.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// How a rank speaks to the others.
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Who serves the store, and where.
    pub(crate) server: &'static str,
    pub(crate) address: String,
    /// This session's.
    pub(crate) places: Places,
    /// Those of all sessions of the run.
    pub(crate) lasting: Places,
    /// Number of the next message of all.
    pub(crate) next: Cell<u64>,
    /// Words of the first rank that the others may not have read yet: those before the last
    /// message of all others are read.
    pub(crate) said: RefCell<VecDeque<(u64, usize)>>,
    pub(crate) traffic: Cell<Traffic>,
    pub(crate) timeout: Duration,
    pub(crate) stop: Box<dyn Fn() -> bool>,
    pub(crate) progress: Progress,
    pub(crate) lost: Lost,
    /// Whether this rank has left, or is none of the group.
    pub(crate) ended: Cell<bool>,
}

impl Link {
    pub(crate) fn take_number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    pub(crate) fn key(&self, name: &str, part: usize) -> String {
        format!("{}/{name}.{part}", self.places.prefix)
    }

    pub(crate) fn ask(&self, ask: Ask) -> Result<Option<Vec<u8>>> {
        let failed = |problem| Self::of_store(self.server, self.address.clone(), problem);
        self.client.ask(ask).map_err(failed)
    }

    /// The value that a key has now.
    pub(crate) fn peek(&self, key: String) -> Result<Option<Vec<u8>>> {
        self.ask(Ask::Await(key, Duration::ZERO))
    }

    /// What went wrong with the store.
    pub(crate) fn of_store(server: &'static str, address: String, problem: String) -> Error {
        Error::Store { server, address, problem }
    }

    fn count(&self, count: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.get();
        count(&mut traffic);
        self.traffic.set(traffic);
    }

    /// Puts a message there in parts, and says how many.
    pub(crate) fn send(&self, name: &str, what: &str, rank: usize, bytes: &[u8]) -> Result<usize> {
        if bytes.len() > LONGEST {
            let problem = format!("it has {} bytes, at most {LONGEST} can be sent", bytes.len());
            return Err(Error::Message { rank, what: what.to_owned(), problem });
        }
        let parts = bytes.len().div_ceil(PART).max(1);
        for part in 0..parts {
            let mut message = (parts as u32).to_le_bytes().to_vec();
            message.extend_from_slice(&bytes[part * PART..bytes.len().min((part + 1) * PART)]);
            let key = self.key(name, part);
            let sealed = self.places.seal.close(&key, &message);
            self.count(|traffic| traffic.bytes_sent += sealed.len() as u64);
            self.ask(Ask::Set(key, sealed))?;
        }
        self.count(|traffic| traffic.sent += 1);
        Ok(parts)
    }

    /// Takes a message of `rank`, and with `last` removes it.
    pub(crate) fn receive(&self, name: &str, what: &str, rank: usize, last: bool) -> Result<Vec<u8>> {
        let unreadable = |problem: String| Error::Message { rank, what: what.to_owned(), problem };
        let (mut bytes, mut parts, mut part) = (Vec::new(), 1, 0);
        while part < parts {
            let key = self.key(name, part);
            let sealed = self.await_key(&key, what, rank)?;
            self.count(|traffic| traffic.bytes_received += sealed.len() as u64);
            let secret = || Error::Secret { rank, what: what.to_owned() };
            let message = self.places.seal.open(&key, &sealed).ok_or_else(secret)?;
            let (count, content) =
                message.split_first_chunk::<4>().ok_or_else(|| unreadable("it is cut off".to_owned()))?;
            let count = u32::from_le_bytes(*count) as usize;
            if count == 0 || count > LONGEST / PART || content.len() > PART || part > 0 && count != parts {
                return Err(unreadable(format!("it has {count} parts")));
            }
            parts = count;
            bytes.extend_from_slice(content);
            if last {
                self.ask(Ask::Delete(key))?;
            }
            part += 1;
        }
        self.count(|traffic| traffic.received += 1);
        Ok(bytes)
    }

    /// The value that `rank` puts at a key, as long as that takes.
    fn await_key(&self, key: &str, what: &str, rank: usize) -> Result<Vec<u8>> {
        let mut progress = Changing::new();
        loop {
            if let Some(sealed) = self.ask(Ask::Await(key.to_owned(), SLICE))? {
                return Ok(sealed);
            }
            if let Some(error) = self.lost.get() {
                return Err(error);
            }
            self.check_ended(rank)?;
            // Who left in peace has said all that it had to say.
            let gone = self.peek(self.places.gone(rank))?.is_some();
            if gone && self.peek(key.to_owned())?.is_none() {
                let reason = format!("it has ended, and others wait ({what})");
                return Err(Error::Failed { rank, reason, usage: false });
            }
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            let sign = self.peek(self.places.beat(rank))?;
            let sign = self.places.read_sign(rank, sign.as_deref());
            if progress.note(sign.map(|[_, progress]| progress)) {
                self.progress.note_other();
            }
            if progress.unchanged_for() > self.timeout {
                let (seconds, what) = (self.timeout.as_secs(), what.to_owned());
                return Err(Error::Hangs { rank, seconds, what });
            }
        }
    }

    /// Fails if a rank has left word why it goes.
    pub(crate) fn check_ended(&self, rank: usize) -> Result<()> {
        let found = self.peek(self.places.end(rank))?;
        let farewell = self.places.read_end(rank, found.as_deref());
        farewell.map_or(Ok(()), |farewell| Err(farewell.into()))
    }
}
