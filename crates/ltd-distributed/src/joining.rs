//! How ranks find each other: the first one begins a session, the others ask to be let in.

use std::time::{Duration, Instant};

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::client::{Ask, BEAT};
use crate::fact::differing;
use crate::link::{Link, SLICE};
use crate::vigil::Places;
use crate::{Error, Fact, Result};

/// How long a rank waits for another session where its place in the present one is taken: a store
/// that outlives the ranks may show one that is over, and others may not have noticed yet that the
/// one before it died.
const TAKEN: Duration = Duration::from_secs(60);

/// A rank that joins.
#[derive(Serialize, Deserialize)]
struct Hello {
    /// Drawn by the process: a rank that is there twice says two things.
    process: u64,
    facts: Vec<Fact>,
}

impl Link {
    /// The first rank begins a session and waits for all others.
    pub(crate) fn welcome(&mut self, size: usize, facts: &[Fact], joining: Duration) -> Result<()> {
        let mut nonce = [0; 16];
        rand::rng().fill_bytes(&mut nonce);
        let begin = format!("{}/begin", self.places.prefix);
        let sealed = self.places.seal.close(&begin, &nonce);
        self.ask(Ask::Set(begin, sealed))?;
        self.enter(&nonce);
        let until = Instant::now() + joining;
        let mut problem = None;
        for rank in 1..size {
            let key = format!("{}/hello/{rank}", self.places.prefix);
            let sealed = loop {
                match self.ask(Ask::Await(key.clone(), SLICE))? {
                    Some(sealed) => break sealed,
                    None if (self.stop)() => return Err(Error::Stopped),
                    None if Instant::now() > until => {
                        // Who differs says more than who does not come.
                        let absent = Error::Absent { rank, seconds: joining.as_secs() };
                        return Err(problem.unwrap_or(absent));
                    }
                    // A rank that came may have gone.
                    None => (1..=rank).try_for_each(|rank| self.check_ended(rank))?,
                }
            };
            let Some(message) = self.places.seal.open(&key, &sealed) else {
                return Err(Error::Secret { rank, what: "as it joined".to_owned() });
            };
            let hello: Hello = serde_json::from_slice(message).map_err(|error| Error::Message {
                rank,
                what: "as it joined".to_owned(),
                problem: error.to_string(),
            })?;
            let differs = differing(rank, &hello.facts, facts).map(Error::Differs);
            problem = problem.or(differs);
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
        let key = format!("{}/welcome", self.places.prefix);
        let sealed = self.places.seal.close(&key, &(size as u64).to_le_bytes());
        self.ask(Ask::Set(key, sealed))?;
        Ok(())
    }

    /// Another rank looks for the session, and waits to be let in.
    pub(crate) fn knock(
        &mut self,
        rank: usize,
        size: usize,
        facts: &[Fact],
        joining: Duration,
    ) -> Result<()> {
        let before = self.places.clone();
        let begin = format!("{}/begin", before.prefix);
        let process = rand::rng().next_u64();
        let hello = Hello { process, facts: facts.to_vec() };
        let hello = serde_json::to_vec(&hello).expect("invariant: it is plain data");
        let (mut session, until) = (Vec::new(), Instant::now() + joining);
        let mut taken: Option<Instant> = None;
        loop {
            let begun = self.ask(Ask::Await(begin.clone(), SLICE))?;
            if let Some(sealed) = begun.filter(|sealed| *sealed != session) {
                // A store that outlives its ranks may still have the session before.
                let nonce = sealed.get(crate::seal::SEAL..).unwrap_or_default().to_vec();
                let known = before.seal.open(&begin, &sealed).is_some();
                session = sealed;
                self.places = before.clone();
                self.enter(&nonce);
                let key = format!("{}/hello/{rank}", self.places.prefix);
                let greeting = self.places.seal.close(&key, &hello);
                // Said even with another secret: so the first rank can tell who has it.
                self.ask(Ask::SetOnce(key.clone(), greeting.clone()))?;
                if !known {
                    return Err(Error::Secret { rank: 0, what: "as this rank joined".to_owned() });
                }
                let found = self.peek(key)?;
                taken = found.is_some_and(|found| found != greeting).then(Instant::now);
            }
            if taken.is_some_and(|since| since.elapsed() > TAKEN) {
                // The session is others', who go on.
                self.ended.set(true);
                let problem = format!(
                    "rank {rank} is there already: each process needs a RANK of its own, and one that is \
                     started again waits until the others have ended"
                );
                return Err(Error::Differs(problem));
            }
            if !session.is_empty() && taken.is_none() {
                let key = format!("{}/welcome", self.places.prefix);
                if let Some(sealed) = self.ask(Ask::Await(key.clone(), SLICE))? {
                    let secret = || Error::Secret { rank: 0, what: "as this rank joined".to_owned() };
                    let found = self.places.seal.open(&key, &sealed).ok_or_else(secret)?;
                    if found != (size as u64).to_le_bytes() {
                        let problem =
                            format!("ranks differ in WORLD_SIZE: rank {rank} has {size}, rank 0 another");
                        return Err(Error::Differs(problem));
                    }
                    return Ok(());
                }
                self.check_ended(0)?;
            }
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            // The first rank tells who is missing: it has its time first.
            if Instant::now() > until + BEAT * 5 {
                return Err(Error::Absent { rank: 0, seconds: joining.as_secs() });
            }
        }
    }

    /// From now on messages are those of a session.
    fn enter(&mut self, nonce: &[u8]) {
        let name: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let Places { prefix, seal } = &self.places;
        self.places = Places { prefix: format!("{prefix}/{name}"), seal: seal.of_session(nonce) };
    }
}
