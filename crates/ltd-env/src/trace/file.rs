//! Traces on disk: a header, and shards of checksummed chunks, one per sequence.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use ltd_policy::{FolderLock, remove_unfinished, sha256_hex, write_atomically};

use super::{TRACE_VERSION, TraceHeader, TracedSequence};
use crate::{Error, Result};

const HEADER_FILE: &str = "trace.json";
/// Locked by whoever writes the trace.
const LOCK_FILE: &str = "trace.lock";
const MAGIC: [u8; 4] = *b"LTDT";
/// Magic, length of the payload, checksum of the payload.
const PREFIX: usize = 12;
/// A shard is closed when it is longer.
const SHARD_BYTES: u64 = 30 << 20;

/// A trace in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What all sequences have in common.
    pub header: TraceHeader,
    /// By number of the prompt, and by seed.
    pub sequences: Vec<TracedSequence>,
    /// Shards whose last chunk was cut off, as an interruption leaves it, and was passed over.
    pub truncated: Vec<PathBuf>,
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// If the header or a chunk is damaged. A chunk that is cut off at the end of a shard is passed
    /// over.
    pub fn read(folder: &Path) -> Result<Self> {
        let header = read_header(folder)?;
        let (mut sequences, mut truncated) = (Vec::new(), Vec::new());
        for path in shards(folder) {
            let complete = read_shard(&path, &header, &mut |sequence| sequences.push(sequence))?;
            if complete.is_some() {
                truncated.push(path);
            }
        }
        sequences.sort_by_key(TracedSequence::key);
        let twice = sequences.windows(2).find(|pair| pair[0].key() == pair[1].key());
        if let Some(pair) = twice {
            let (prompt, seed) = pair[0].key();
            let drawn = if header.is_sampled() { format!(" with seed {seed}") } else { String::new() };
            let problem = format!("prompt {prompt} was recorded twice{drawn}");
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        Ok(Self { header, sequences, truncated })
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

    /// What tells this trace from another, or from what it was before: a SHA-256 over its header
    /// and the checksums of its sequences, in hexadecimal digits. How they are spread over files
    /// does not matter.
    pub fn identity(&self) -> String {
        let mut bytes = self.header.identifying_json().into_bytes();
        for sequence in &self.sequences {
            bytes.extend_from_slice(&crc32fast::hash(&encode(sequence, &self.header)).to_le_bytes());
        }
        sha256_hex(&bytes)
    }

    /// Prompts that have a sequence, each counted once.
    pub fn prompts(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.prompt).collect::<BTreeSet<_>>().len()
    }

    /// Positions of all sequences.
    pub fn positions(&self) -> usize {
        self.sequences.iter().map(TracedSequence::len).sum()
    }
}

/// Appends sequences to a trace. Whatever happens, what was appended before stays readable.
pub struct TraceWriter {
    folder: PathBuf,
    header: TraceHeader,
    file: File,
    shard: usize,
    recorded: BTreeSet<(u32, u64)>,
    bytes: u64,
    _lock: FolderLock,
}

impl TraceWriter {
    /// Starts a trace, or goes on with one: a chunk that is cut off is removed. One without the
    /// candidates' tokens stays without them.
    ///
    /// # Errors
    /// If the folder holds a trace with another header, cannot be written, or is being written by
    /// another writer.
    pub fn open(folder: &Path, header: TraceHeader) -> Result<Self> {
        let mut header = header.canonical();
        if let Some(problem) = header.problem() {
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // First: what looks cut off may be a chunk that another process is writing.
        let lock = FolderLock::take(&folder.join(LOCK_FILE))?;
        let lock = lock.ok_or_else(|| Error::TraceInUse { path: folder.to_owned() })?;
        remove_unfinished(folder)?;
        let path = folder.join(HEADER_FILE);
        if path.exists() {
            let found = read_header(folder)?;
            if !found.has_candidates() {
                // What an older trace lacks, the rest of it lacks too.
                header.token_bytes = 0;
            }
            if let Some((field, found, wanted)) = found.differences(&header).into_iter().next() {
                let problem =
                    format!("is a trace whose {field} is {found}, not {wanted}: choose another folder");
                return Err(Error::Trace { path: folder.to_owned(), problem });
            }
        } else {
            write_atomically(&path, header.to_json().as_bytes())?;
        }
        let mut recorded = BTreeSet::new();
        let mut bytes = 0;
        let existing = shards(folder);
        for path in &existing {
            if let Some(end) = read_shard(path, &header, &mut |sequence| _ = recorded.insert(sequence.key()))?
            {
                let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
                file.set_len(end).map_err(Error::io(path))?;
            }
            bytes += path.metadata().map_err(Error::io(path))?.len();
        }
        let shard = existing.len().saturating_sub(1);
        let file = append_to(folder, shard)?;
        Ok(Self { folder: folder.to_owned(), header, file, shard, recorded, bytes, _lock: lock })
    }

    /// What all sequences have in common.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Prompts and seeds whose sequences are complete; see [`TracedSequence::key`].
    pub fn recorded(&self) -> &BTreeSet<(u32, u64)> {
        &self.recorded
    }

    /// Size of the trace.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a sequence.
    pub fn append(&mut self, sequence: &TracedSequence) -> Result<()> {
        let payload = encode(sequence, &self.header);
        let mut chunk = Vec::with_capacity(PREFIX + payload.len());
        chunk.extend_from_slice(&MAGIC);
        chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        chunk.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        chunk.extend_from_slice(&payload);
        let path = shard_path(&self.folder, self.shard);
        let write = |file: &mut File| -> std::io::Result<u64> {
            file.write_all(&chunk)?;
            file.sync_data()?;
            file.seek(SeekFrom::End(0))
        };
        let length = write(&mut self.file).map_err(Error::io(&path))?;
        self.bytes += chunk.len() as u64;
        self.recorded.insert(sequence.key());
        if length > SHARD_BYTES {
            self.shard += 1;
            self.file = append_to(&self.folder, self.shard)?;
        }
        Ok(())
    }

    /// Appends all sequences of another trace, which lies in `folder`, that are not there yet, and
    /// says how many these are.
    ///
    /// # Errors
    /// If the headers differ, or the trace cannot be written.
    pub fn merge(&mut self, other: &Trace, folder: &Path) -> Result<usize> {
        if let Some((field, theirs, ours)) = other.header.differences(&self.header).into_iter().next() {
            let into = self.folder.display();
            let problem = format!("is a trace whose {field} is {theirs}, that of {into} is {ours}");
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        let new: Vec<_> =
            other.sequences.iter().filter(|sequence| !self.recorded.contains(&sequence.key())).collect();
        for sequence in &new {
            self.append(sequence)?;
        }
        Ok(new.len())
    }
}

fn read_header(folder: &Path) -> Result<TraceHeader> {
    let path = folder.join(HEADER_FILE);
    let error = |problem: String| Error::Trace { path: path.clone(), problem };
    let text = ltd_policy::read_text(&path).map_err(|source| match source.kind() {
        // The folder was named wrongly.
        ErrorKind::NotFound if !folder.exists() => error(source.to_string()),
        ErrorKind::NotFound | ErrorKind::NotADirectory => Error::Trace {
            path: folder.to_owned(),
            problem: format!("is not a trace: it has no {HEADER_FILE}"),
        },
        _ => Error::Io { path: path.clone(), source },
    })?;
    let mut value: serde_json::Value =
        serde_json::from_str(&text).map_err(|problem| error(format!("is not a header: {problem}")))?;
    // Before anything else: another version may have other fields.
    let version = value["version"].as_u64();
    match version {
        Some(1) => add_new_in_version_2(&mut value),
        Some(version) if (2..=u64::from(TRACE_VERSION)).contains(&version) => {}
        _ => {
            let found = value["version"].to_string();
            return Err(error(format!(
                "has version {found}, this program reads versions 1 to {TRACE_VERSION}"
            )));
        }
    }
    if version < Some(3) {
        value["token_bytes"] = 0.into();
    }
    for (field, first) in [("sampling", 4), ("states", 5)] {
        if version < Some(first) && value.get(field).is_some() {
            let version = &value["version"];
            return Err(error(format!("has the field {field}, which is not of version {version}")));
        }
    }
    value["version"] = TRACE_VERSION.into();
    let header: TraceHeader =
        serde_json::from_value(value).map_err(|problem| error(format!("is not a header: {problem}")))?;
    match header.problem() {
        Some(problem) => Err(error(problem)),
        None => Ok(header.canonical()),
    }
}

/// A header of version 1 says what one of version 2 does that leaves nothing out and adds nothing.
fn add_new_in_version_2(header: &mut serde_json::Value) {
    header["every"] = 1.into();
    header["entropies"] = false.into();
    header["hidden"] = serde_json::Value::Null;
}

fn shard_path(folder: &Path, shard: usize) -> PathBuf {
    folder.join(format!("shard-{shard:05}.bin"))
}

fn append_to(folder: &Path, shard: usize) -> Result<File> {
    let path = shard_path(folder, shard);
    OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))
}

/// Shards in order: they are numbered without a gap.
fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut shards = Vec::new();
    loop {
        let path = shard_path(folder, shards.len());
        if !path.exists() {
            return shards;
        }
        shards.push(path);
    }
}

/// Reads all complete chunks; says where the last one ends if something is cut off after it.
fn read_shard(
    path: &Path,
    header: &TraceHeader,
    visit: &mut dyn FnMut(TracedSequence),
) -> Result<Option<u64>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(Error::io(path))?;
    let mut at = 0;
    while at < bytes.len() {
        let damaged = |what: &str| Error::Trace {
            path: path.to_owned(),
            problem: format!("the chunk at byte {at} {what}"),
        };
        let rest = &bytes[at..];
        let present = &MAGIC[..rest.len().min(MAGIC.len())];
        if !rest.starts_with(present) {
            return Err(damaged("does not begin as one should"));
        }
        let number = |offset: usize| {
            let bytes = rest.get(offset..offset + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().expect("invariant: four bytes")))
        };
        let (Some(length), Some(checksum)) = (number(4), number(8)) else { return Ok(Some(at as u64)) };
        let Some(payload) = rest.get(PREFIX..PREFIX + length as usize) else { return Ok(Some(at as u64)) };
        if crc32fast::hash(payload) != checksum {
            return Err(damaged("does not match its checksum"));
        }
        let sequence = decode(payload, header).ok_or_else(|| damaged("does not fit the header"))?;
        visit(sequence);
        at += PREFIX + payload.len();
    }
    Ok(None)
}

fn encode(sequence: &TracedSequence, header: &TraceHeader) -> Vec<u8> {
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

    fn u16s(&mut self, count: usize) -> Option<impl Iterator<Item = u16> + use<'b>> {
        let pairs = self.take(count.checked_mul(2)?)?.as_chunks::<2>().0;
        Some(pairs.iter().map(|pair| u16::from_le_bytes(*pair)))
    }
}

fn decode(payload: &[u8], header: &TraceHeader) -> Option<TracedSequence> {
    let mut bytes = Bytes(payload);
    let prompt = bytes.u32()?;
    let seed = if header.is_sampled() { bytes.u64()? } else { 0 };
    let [prompt_len, tokens, positions, rank_count] =
        [bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u32()?].map(|number| number as usize);
    let tokens: Vec<u32> = (0..tokens).map(|_| bytes.u32()).collect::<Option<_>>()?;
    let path_lens = bytes.take(positions)?.to_vec();
    let mut starts = vec![0];
    for &len in &path_lens {
        let ranks: usize = (0..=header.depth).map(|depth| usize::from(len).min(depth + 1)).sum();
        starts.push(starts.last()? + ranks);
    }
    let every = header.every;
    // Every root is one of the tokens.
    let last = positions.checked_sub(1).map(|last| last.saturating_mul(every).saturating_add(prompt_len));
    if *starts.last()? != rank_count || prompt_len > tokens.len() || last >= Some(tokens.len()) {
        return None;
    }
    // The token after the last node of a path must be known.
    let known = |(at, &len): (usize, &u8)| prompt_len + at * every + usize::from(len) + 1 < tokens.len();
    if !path_lens.iter().enumerate().all(known) {
        return None;
    }
    let ranks = bytes.u16s(rank_count)?.collect();
    let columns = header.columns();
    let mut column = |width: usize| -> Option<Vec<f16>> {
        Some(bytes.u16s(positions.checked_mul(width)?)?.map(f16::from_bits).collect())
    };
    let (scores, entropies) = (column(columns.scores)?, column(columns.entropies)?);
    let (hidden, states) = (column(columns.hidden)?, column(columns.states)?);
    let parents: Vec<u16> = bytes.u16s(positions.checked_mul(columns.parents)?)?.collect();
    let count = positions.checked_mul(columns.tokens)?;
    let candidate_tokens = match header.token_bytes {
        2 => bytes.u16s(count)?.map(u32::from).collect(),
        _ => (0..count).map(|_| bytes.u32()).collect::<Option<_>>()?,
    };
    if !bytes.0.is_empty() || !parents_come_first(&parents, header) {
        return None;
    }
    Some(TracedSequence {
        prompt,
        seed,
        prompt_len,
        tokens,
        every,
        columns,
        scores,
        entropies,
        hidden,
        states,
        candidate_tokens,
        parents,
        starts,
        ranks,
        path_lens,
    })
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

#[cfg(test)]
mod tests {
    use ltd_cycle::{DraftTree, GrownTree};
    use ltd_policy::{ModelIdentity, SamplingParams};

    use super::*;

    #[test]
    fn greedy_traces_have_the_identity_that_version_3_gave_them() {
        let model = ModelIdentity { name: "m".to_owned(), sha256: "0".to_owned() };
        let header = TraceHeader {
            version: TRACE_VERSION,
            target: model.clone(),
            draft: model,
            dtype: "f32".into(),
            beam_width: 2,
            depth: 0,
            every: 1,
            entropies: false,
            hidden: None,
            states: None,
            token_bytes: 2,
            sampling: SamplingParams::default(),
            max_new_tokens: 10,
            capacity: 100,
            eos: vec![2],
            questions: "prompts.jsonl".into(),
            questions_sha256: String::new(),
        };
        let mut sequence = TracedSequence::new(&header, 7, 2, vec![5, 5, 6, 8, 3]);
        for root in 2..4 {
            let tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
            sequence.push(&GrownTree::new(root, tree));
        }
        let identity = |header: &TraceHeader, sequence: &TracedSequence| {
            let sequences = vec![sequence.clone()];
            Trace { header: header.clone(), sequences, truncated: Vec::new() }.identity()
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
