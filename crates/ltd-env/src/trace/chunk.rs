//! Chunks of a shard: a checksummed sequence each.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use half::f16;

use super::{Outline, TraceHeader, TracedSequence};
use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"LTDT";
/// Magic, length of the payload, checksum of the payload.
const PREFIX: usize = 12;

/// Where a chunk lies, and what it must hold.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: Arc<Path>,
    /// Its first byte.
    at: u64,
    /// Of the payload.
    length: u32,
    /// Of the payload.
    checksum: u32,
}

impl Place {
    /// Checksum of the payload.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The payload.
    ///
    /// # Errors
    /// If it cannot be read, or is no longer what it was.
    pub(super) fn payload(&self) -> Result<Vec<u8>> {
        let mut payload = vec![0; self.length as usize];
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at + PREFIX as u64))?;
            file.read_exact(&mut payload)
        });
        match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.changed("is cut off")),
            Err(error) => Err(Error::io(&self.path)(error)),
            Ok(()) if crc32fast::hash(&payload) != self.checksum => {
                Err(self.changed("does not match its checksum"))
            }
            Ok(()) => Ok(payload),
        }
    }

    /// The sequence with this outline.
    ///
    /// # Errors
    /// If it cannot be read, or is no longer what it was.
    pub(super) fn sequence(&self, header: &TraceHeader, outline: &Arc<Outline>) -> Result<TracedSequence> {
        let trees = trees(&self.payload()?, header, outline);
        trees.ok_or_else(|| damaged(&self.path, self.at, "does not fit the header"))
    }

    fn changed(&self, what: &str) -> Error {
        damaged(&self.path, self.at, &format!("{what}, which it did when the trace was opened"))
    }
}

fn damaged(path: &Path, at: u64, what: &str) -> Error {
    Error::Trace { path: path.to_owned(), problem: format!("the chunk at byte {at} {what}") }
}

/// Reads all complete chunks, one after another; says where the last one ends if something is cut
/// off after it.
pub(super) fn read_shard(
    path: &Path,
    header: &TraceHeader,
    visit: &mut dyn FnMut(Outline, Place),
) -> Result<Option<u64>> {
    let shared: Arc<Path> = path.into();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut prefix, mut payload, mut at) = (Vec::new(), Vec::new(), 0);
    // As many bytes as there are, at most these.
    let mut read = |bytes: &mut Vec<u8>, most: usize| {
        bytes.clear();
        file.by_ref().take(most as u64).read_to_end(bytes).map_err(Error::io(path))
    };
    while read(&mut prefix, PREFIX)? > 0 {
        if !prefix.starts_with(&MAGIC[..prefix.len().min(MAGIC.len())]) {
            return Err(damaged(path, at, "does not begin as one should"));
        }
        let Some((_, numbers)) = prefix.split_at_checked(MAGIC.len()) else { return Ok(Some(at)) };
        let mut numbers = Bytes(numbers);
        let (Some(length), Some(checksum)) = (numbers.u32(), numbers.u32()) else { return Ok(Some(at)) };
        if read(&mut payload, length as usize)? < length as usize {
            if holds_a_chunk(&payload) {
                return Err(damaged(path, at, "is not as long as it says: others follow"));
            }
            return Ok(Some(at));
        }
        if crc32fast::hash(&payload) != checksum {
            return Err(damaged(path, at, "does not match its checksum"));
        }
        let outline =
            outline(&payload, header).ok_or_else(|| damaged(path, at, "does not fit the header"))?;
        visit(outline, Place { path: Arc::clone(&shared), at, length, checksum });
        at += (PREFIX + payload.len()) as u64;
    }
    Ok(None)
}

/// Whether a whole chunk lies somewhere in these bytes.
fn holds_a_chunk(bytes: &[u8]) -> bool {
    let starts = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    starts.into_iter().any(|(start, _)| {
        let mut rest = Bytes(&bytes[start + MAGIC.len()..]);
        let (Some(length), Some(checksum)) = (rest.u32(), rest.u32()) else { return false };
        rest.take(length as usize).is_some_and(|payload| crc32fast::hash(payload) == checksum)
    })
}

/// A chunk with this payload.
pub(super) fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(PREFIX + payload.len());
    chunk.extend_from_slice(&MAGIC);
    chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    chunk.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    chunk.extend_from_slice(payload);
    chunk
}

/// The payload of a sequence.
pub(super) fn encode(sequence: &TracedSequence, header: &TraceHeader) -> Vec<u8> {
    let mut payload = sequence.prompt.to_le_bytes().to_vec();
    if header.is_sampled() {
        payload.extend_from_slice(&sequence.seed.to_le_bytes());
    }
    let numbers = [
        sequence.prompt_len as u32,
        sequence.tokens.len() as u32,
        sequence.len() as u32,
        sequence.ranks.len() as u32,
    ];
    for number in numbers.iter().chain(&sequence.tokens) {
        payload.extend_from_slice(&number.to_le_bytes());
    }
    payload.extend_from_slice(&sequence.path_lens);
    for rank in &sequence.ranks {
        payload.extend_from_slice(&rank.to_le_bytes());
    }
    for column in [&sequence.scores, &sequence.entropies, &sequence.hidden, &sequence.states] {
        payload.extend(column.iter().flat_map(|number| number.to_bits().to_le_bytes()));
    }
    payload.extend(sequence.parents.iter().flat_map(|parent| parent.to_le_bytes()));
    for token in &sequence.candidate_tokens {
        payload.extend_from_slice(&token.to_le_bytes()[..header.token_bytes]);
    }
    payload
}

/// A reader of little-endian numbers.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32s(&mut self, count: usize) -> Option<impl Iterator<Item = u32> + use<'b>> {
        let numbers = self.take(count.checked_mul(4)?)?.as_chunks::<4>().0;
        Some(numbers.iter().map(|number| u32::from_le_bytes(*number)))
    }

    fn u16s(&mut self, count: usize) -> Option<impl Iterator<Item = u16> + use<'b>> {
        let pairs = self.take(count.checked_mul(2)?)?.as_chunks::<2>().0;
        Some(pairs.iter().map(|pair| u16::from_le_bytes(*pair)))
    }
}

/// The outline of a payload whose trees fit the header.
fn outline(payload: &[u8], header: &TraceHeader) -> Option<Outline> {
    let mut bytes = Bytes(payload);
    let prompt = bytes.u32()?;
    let seed = if header.is_sampled() { bytes.u64()? } else { 0 };
    let [prompt_len, tokens, positions, rank_count] =
        [bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u32()?].map(|number| number as usize);
    let tokens: Vec<u32> = bytes.u32s(tokens)?.collect();
    let path_lens = bytes.take(positions)?.to_vec();
    let mut starts = Vec::with_capacity(positions + 1);
    starts.push(0);
    let mut end = 0;
    for &len in &path_lens {
        end += (0..=header.depth).map(|depth| usize::from(len).min(depth + 1)).sum::<usize>();
        starts.push(u32::try_from(end).ok()?);
    }
    let every = header.every;
    // Every root is one of the tokens.
    let last = positions.checked_sub(1).map(|last| last.saturating_mul(every).saturating_add(prompt_len));
    if end != rank_count || prompt_len > tokens.len() || last >= Some(tokens.len()) {
        return None;
    }
    // The token after the last node of a path must be known.
    let known = |(at, &len): (usize, &u8)| prompt_len + at * every + usize::from(len) + 1 < tokens.len();
    if !path_lens.iter().enumerate().all(known) {
        return None;
    }
    let ranks = bytes.u16s(rank_count)?.collect();
    let columns = header.columns();
    let halves = columns.scores + columns.entropies + columns.hidden + columns.states;
    bytes.take(positions.checked_mul(2 * halves)?)?;
    let parents: Vec<u16> = bytes.u16s(positions.checked_mul(columns.parents)?)?.collect();
    bytes.take(positions.checked_mul(columns.tokens * header.token_bytes)?)?;
    let fits = bytes.0.is_empty() && parents_come_first(&parents, header);
    fits.then_some(Outline { prompt, seed, prompt_len, tokens, every, starts, ranks, path_lens })
}

/// The sequence of a payload that has this outline.
fn trees(payload: &[u8], header: &TraceHeader, outline: &Arc<Outline>) -> Option<TracedSequence> {
    let mut bytes = Bytes(payload);
    let positions = outline.len();
    let seed = if header.is_sampled() { 8 } else { 0 };
    bytes.take(4 + seed + 16 + 4 * outline.tokens.len() + positions + 2 * outline.ranks.len())?;
    let columns = header.columns();
    let mut column = |width: usize| -> Option<Vec<f16>> {
        Some(bytes.u16s(positions.checked_mul(width)?)?.map(f16::from_bits).collect())
    };
    let (scores, entropies) = (column(columns.scores)?, column(columns.entropies)?);
    let (hidden, states) = (column(columns.hidden)?, column(columns.states)?);
    let parents = bytes.u16s(positions.checked_mul(columns.parents)?)?.collect();
    let count = positions.checked_mul(columns.tokens)?;
    let candidate_tokens = match header.token_bytes {
        2 => bytes.u16s(count)?.map(u32::from).collect(),
        _ => bytes.u32s(count)?.collect(),
    };
    let outline = Arc::clone(outline);
    Some(TracedSequence { outline, columns, scores, entropies, hidden, states, candidate_tokens, parents })
}

/// Whether every group of candidates follows one before it, or nothing.
fn parents_come_first(parents: &[u16], header: &TraceHeader) -> bool {
    let groups = 1 + header.depth * header.beam_width;
    parents.chunks(groups).all(|parents| {
        let mut groups = parents.iter().enumerate();
        groups.all(|(group, &parent)| {
            parent == u16::MAX
                || usize::from(parent) <= group * header.beam_width && (parent > 0) == (group > 0)
        })
    })
}
