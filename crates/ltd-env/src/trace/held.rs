//! A trace: what its sequences say is in memory, their trees are read when they are asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ltd_policy::sha256_hex;
use rayon::prelude::*;

use super::chunk::{Place, encode, read_shard};
use super::file::{read_header, shards};
use super::{Outline, TraceHeader, TracedSequence};
use crate::{Error, Result};

/// Bytes of trees that a trace keeps in memory: all of a trace of some 50,000 positions, and not
/// too much for any machine that runs a model.
const KEPT_BYTES: usize = 256 << 20;

/// A trace. The outlines of its sequences are in memory. Their trees are read when they are asked
/// for; the first ones stay in memory, as far as there is room for them. Parts of a trace share
/// what was read, and the room.
#[derive(Debug, Clone)]
pub struct Trace {
    /// What all sequences have in common.
    pub header: TraceHeader,
    /// Shards whose last chunk was cut off, as an interruption leaves it, and was passed over.
    pub truncated: Vec<PathBuf>,
    /// By number of the prompt, and by seed.
    sequences: Vec<Arc<Sequence>>,
    room: Arc<Room>,
}

/// Bytes that may still be kept.
#[derive(Debug)]
struct Room(AtomicUsize);

/// A sequence, wherever its trees are.
#[derive(Debug)]
struct Sequence {
    outline: Arc<Outline>,
    trees: Trees,
    kept: OnceLock<Kept>,
    /// What [`Trace::tables`] was asked for.
    tables: Mutex<Vec<(usize, Arc<[u8]>)>>,
}

/// Where the trees of a sequence are.
#[derive(Debug)]
enum Trees {
    Held(Arc<TracedSequence>),
    Chunk(Place),
    /// Those of another sequence, whose first positions these are.
    First(Arc<Sequence>),
}

/// A sequence that was read and stays in memory.
#[derive(Debug)]
struct Kept {
    whole: Arc<TracedSequence>,
    room: Arc<Room>,
}

impl Room {
    /// Takes some bytes, if there are so many.
    fn take(&self, bytes: usize) -> bool {
        let left = |room: usize| room.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.whole.bytes(), Ordering::Relaxed);
    }
}

impl Sequence {
    fn new(outline: Arc<Outline>, trees: Trees) -> Arc<Self> {
        Arc::new(Self { outline, trees, kept: OnceLock::new(), tables: Mutex::default() })
    }

    fn whole(&self, header: &TraceHeader, room: &Arc<Room>) -> Result<Arc<TracedSequence>> {
        if let Some(kept) = self.kept.get() {
            return Ok(Arc::clone(&kept.whole));
        }
        let whole = match &self.trees {
            Trees::Held(held) => return Ok(Arc::clone(held)),
            Trees::Chunk(place) => Arc::new(place.sequence(header, &self.outline)?),
            Trees::First(longer) => Arc::new(longer.whole(header, room)?.cut(&self.outline)),
        };
        if room.take(whole.bytes()) {
            // Another thread may have been faster: then this one's room is given back.
            let kept = Kept { whole: Arc::clone(&whole), room: Arc::clone(room) };
            _ = self.kept.set(kept);
        }
        Ok(whole)
    }

    /// Checksum of its chunk.
    fn checksum(&self, header: &TraceHeader, room: &Arc<Room>) -> Result<u32> {
        match &self.trees {
            Trees::Chunk(place) => Ok(place.checksum()),
            _ => Ok(crc32fast::hash(&self.payload(header, room)?)),
        }
    }

    fn payload(&self, header: &TraceHeader, room: &Arc<Room>) -> Result<Vec<u8>> {
        match &self.trees {
            Trees::Chunk(place) => place.payload(),
            _ => Ok(encode(&*self.whole(header, room)?, header)),
        }
    }
}

impl PartialEq for Trace {
    /// Whether both are the same, by their identities.
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (String, String)| a == b;
        self.truncated == other.truncated && self.identity().ok().zip(other.identity().ok()).is_some_and(same)
    }
}

impl Trace {
    /// A trace in memory, of sequences in the order of their prompts and seeds.
    pub fn new(header: TraceHeader, sequences: Vec<TracedSequence>) -> Self {
        let held = |sequence: TracedSequence| {
            Sequence::new(Arc::clone(&sequence.outline), Trees::Held(Arc::new(sequence)))
        };
        let sequences = sequences.into_iter().map(held).collect();
        Self { header, truncated: Vec::new(), sequences, room: Arc::new(Room(KEPT_BYTES.into())) }
    }

    /// Opens a trace: reads all of it once, chunk by chunk, and keeps the outlines.
    ///
    /// # Errors
    /// If the header or a chunk is damaged. A chunk that is cut off at the end of a shard is passed
    /// over.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::read_within(folder, KEPT_BYTES)
    }

    /// [`Trace::read`] of a trace that keeps so many bytes of trees in memory at most. With more,
    /// less is read again.
    pub fn read_within(folder: &Path, kept_bytes: usize) -> Result<Self> {
        let header = read_header(folder)?;
        let shards = shards(folder);
        let of_shard = |path: &PathBuf| {
            let mut found = Vec::new();
            let cut_off = read_shard(path, &header, &mut |outline, place| {
                found.push(Sequence::new(Arc::new(outline), Trees::Chunk(place)));
            })?;
            Ok((found, cut_off.map(|_| path.clone())))
        };
        let read: Vec<Result<_>> = shards.par_iter().map(of_shard).collect();
        let (mut sequences, mut truncated) = (Vec::new(), Vec::new());
        for shard in read {
            let (found, cut_off) = shard?;
            sequences.extend(found);
            truncated.extend(cut_off);
        }
        sequences.sort_by_key(|sequence| sequence.outline.key());
        let twice = sequences.windows(2).find(|pair| pair[0].outline.key() == pair[1].outline.key());
        if let Some(pair) = twice {
            let (prompt, seed) = pair[0].outline.key();
            let drawn = if header.is_sampled() { format!(" with seed {seed}") } else { String::new() };
            let problem = format!("prompt {prompt} was recorded twice{drawn}");
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        Ok(Self { header, truncated, sequences, room: Arc::new(Room(kept_bytes.into())) })
    }

    /// [`Trace::read`] of a trace whose cycles can be replayed.
    ///
    /// # Errors
    /// If positions are left out.
    pub fn read_replayable(folder: &Path) -> Result<Self> {
        let trace = Self::read(folder)?;
        let every = trace.header.every;
        if every != 1 {
            let problem = format!(
                "has a tree at every {every} tokens only, and cycles need the tree where they land: record without --every"
            );
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        Ok(trace)
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// What a sequence says, without its trees.
    pub fn outline(&self, number: usize) -> &Outline {
        &self.sequences[number].outline
    }

    /// What the sequences say, by number of the prompt, and by seed.
    pub fn outlines(&self) -> impl DoubleEndedIterator<Item = &Outline> + ExactSizeIterator + Clone {
        self.sequences.iter().map(|sequence| &*sequence.outline)
    }

    /// A sequence with its trees, from memory or from its file. Whoever goes through a trace should
    /// hold one at a time.
    ///
    /// # Errors
    /// If its file can no longer be read, or has changed.
    pub fn sequence(&self, number: usize) -> Result<Arc<TracedSequence>> {
        self.sequences[number].whole(&self.header, &self.room)
    }

    /// All sequences with their trees, one after another.
    pub fn sequences(
        &self,
    ) -> impl DoubleEndedIterator<Item = Result<Arc<TracedSequence>>> + ExactSizeIterator {
        (0..self.len()).map(|number| self.sequence(number))
    }

    /// Small tables of a sequence by their numbers, which stay in memory: `make` is asked for each
    /// once, whatever parts of the trace there are.
    pub(crate) fn tables(
        &self,
        number: usize,
        keys: &[usize],
        make: impl Fn(&TracedSequence, usize) -> Result<Arc<[u8]>>,
    ) -> Result<Vec<Arc<[u8]>>> {
        let sequence = &self.sequences[number];
        let known = || sequence.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let find =
            |key: usize| known().iter().find(|(other, _)| *other == key).map(|(_, table)| Arc::clone(table));
        let mut whole = None;
        let table = |&key: &usize| {
            if let Some(table) = find(key) {
                return Ok(table);
            }
            if whole.is_none() {
                whole = Some(self.sequence(number)?);
            }
            let table = make(whole.as_ref().expect("invariant: it was read"), key)?;
            known().push((key, Arc::clone(&table)));
            Ok(table)
        };
        keys.iter().map(table).collect()
    }

    /// Some sequences, in this order.
    #[must_use]
    pub fn part(&self, numbers: impl IntoIterator<Item = usize>) -> Self {
        let sequences = numbers.into_iter().map(|number| Arc::clone(&self.sequences[number])).collect();
        let room = Arc::clone(&self.room);
        Self { header: self.header.clone(), truncated: Vec::new(), sequences, room }
    }

    /// The trace with the first positions of each sequence alone, as many as `count` says at most.
    #[must_use]
    pub fn cut(&self, count: impl Fn(&Outline) -> usize) -> Self {
        let cut = |sequence: &Arc<Sequence>| {
            let (outline, count) = (&sequence.outline, count(&sequence.outline));
            if count >= outline.len() {
                return Arc::clone(sequence);
            }
            Sequence::new(Arc::new(outline.first(count)), Trees::First(Arc::clone(sequence)))
        };
        let (header, truncated) = (self.header.clone(), self.truncated.clone());
        let sequences = self.sequences.iter().map(cut).collect();
        Self { header, truncated, sequences, room: Arc::clone(&self.room) }
    }

    /// As much of the trace as has no more than `positions` positions: sequences that lie evenly
    /// over it, the same ones each time.
    #[must_use]
    pub fn at_most(&self, positions: usize) -> Self {
        let all = self.positions();
        if all <= positions {
            return self.clone();
        }
        // Each sequence adds its share to what is due; it is taken where half of it is.
        let share = positions as f64 / all as f64;
        let (mut due, mut left, mut taken) = (0.0, positions, Vec::new());
        for (number, outline) in self.outlines().enumerate() {
            due += share * outline.len() as f64;
            if (1..=left).contains(&outline.len()) && 2.0 * due >= outline.len() as f64 {
                due -= outline.len() as f64;
                left -= outline.len();
                taken.push(number);
            }
        }
        if taken.is_empty() {
            // Each is longer.
            let first = self.outlines().position(|outline| !outline.is_empty());
            return self.part(first).cut(|_| positions);
        }
        self.part(taken)
    }

    /// What tells this trace from another, or from what it was before: a SHA-256 over its header
    /// and the checksums of its sequences, in hexadecimal digits. How they are spread over files
    /// does not matter.
    ///
    /// # Errors
    /// If trees of a part of a sequence can no longer be read.
    pub fn identity(&self) -> Result<String> {
        let mut bytes = self.header.identifying_json().into_bytes();
        for sequence in &self.sequences {
            bytes.extend_from_slice(&sequence.checksum(&self.header, &self.room)?.to_le_bytes());
        }
        Ok(sha256_hex(&bytes))
    }

    /// The payload of a sequence's chunk.
    pub(super) fn payload(&self, number: usize) -> Result<Vec<u8>> {
        self.sequences[number].payload(&self.header, &self.room)
    }

    /// Prompts that have a sequence, each counted once.
    pub fn prompts(&self) -> usize {
        self.outlines().map(|outline| outline.prompt).collect::<BTreeSet<_>>().len()
    }

    /// Positions of all sequences.
    pub fn positions(&self) -> usize {
        self.outlines().map(Outline::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ltd_cycle::{DraftTree, GrownTree};
    use ltd_policy::SamplingParams;

    use super::*;
    use crate::trace::tests::header;

    #[test]
    fn a_limited_part_lies_evenly_and_is_the_same_each_time() {
        let header = header();
        let sequence = |prompt: u32, positions: usize| {
            let mut sequence = TracedSequence::new(&header, prompt, 1, vec![5; positions + 3]);
            for root in 1..=positions {
                sequence.push(&GrownTree::new(root, DraftTree::new(&[-0.5, -1.0], vec![7, 8])));
            }
            sequence
        };
        let trace = |lengths: &[usize]| {
            let sequences = (0..).zip(lengths).map(|(prompt, &length)| sequence(prompt, length)).collect();
            Trace::new(header.clone(), sequences)
        };
        let of = |trace: &Trace, positions: usize| -> Vec<(u32, usize)> {
            trace.at_most(positions).outlines().map(|outline| (outline.prompt, outline.len())).collect()
        };
        let even = trace(&[10; 10]);
        assert_eq!(of(&even, 100), of(&even, 1000));
        assert_eq!(of(&even, 100).len(), 10);
        assert_eq!(of(&even, 50), [(0, 10), (2, 10), (4, 10), (6, 10), (8, 10)]);
        assert_eq!(of(&even, 20), [(2, 10), (7, 10)]);
        assert_eq!(of(&even, 4), [(0, 4)], "less than any has");
        let uneven = trace(&[0, 30, 1, 2, 40, 3, 20, 4]);
        for most in 1..=100 {
            let part = uneven.at_most(most);
            assert!((1..=most).contains(&part.positions()), "{most}: {:?}", of(&uneven, most));
        }
    }

    #[test]
    fn greedy_traces_have_the_identity_that_version_3_gave_them() {
        let header = header();
        let mut sequence = TracedSequence::new(&header, 7, 2, vec![5, 5, 6, 8, 3]);
        for root in 2..4 {
            let tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
            sequence.push(&GrownTree::new(root, tree));
        }
        let identity = |header: &TraceHeader, sequence: &TracedSequence| {
            Trace::new(header.clone(), vec![sequence.clone()]).identity().expect("it is in memory")
        };
        assert_eq!(
            identity(&header, &sequence),
            "c1de550ac8e0fe0c3187ae0daba6d1e790d2f946b384b2fd42173233a27ba5b4"
        );
        let temperature = |temperature| SamplingParams { temperature, ..SamplingParams::default() };
        let sampled = TraceHeader { sampling: temperature(1.0), ..header.clone() };
        let warmer = TraceHeader { sampling: temperature(1.5), ..header.clone() };
        let drawn = |header, seed| identity(header, &sequence.clone().with_seed(seed));
        let identities = [drawn(&sampled, 1), drawn(&sampled, 2), drawn(&warmer, 1)];
        assert_eq!(identities.iter().collect::<BTreeSet<_>>().len(), 3, "{identities:?}");
    }
}
