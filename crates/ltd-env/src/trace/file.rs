//! Traces on disk: a header, and shards of checksummed chunks, one per sequence.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ltd_policy::{FolderLock, remove_unfinished, write_atomically};

use super::chunk::{chunk, encode, read_shard};
use super::{TRACE_VERSION, Trace, TraceHeader, TracedSequence};
use crate::{Error, Result};

const HEADER_FILE: &str = "trace.json";
/// Locked by whoever writes the trace.
const LOCK_FILE: &str = "trace.lock";
/// A shard is closed when it is longer.
const SHARD_BYTES: u64 = 30 << 20;

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
        let (mut bytes, mut last) = (0, 0);
        let existing = shards(folder);
        for path in &existing {
            if let Some(end) =
                read_shard(path, &header, &mut |outline, _| _ = recorded.insert(outline.key()))?
            {
                if existing.last() != Some(path) {
                    let problem = format!("is cut off at byte {end}, and others follow");
                    return Err(Error::Trace { path: path.clone(), problem });
                }
                let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
                file.set_len(end).map_err(Error::io(path))?;
            }
            last = path.metadata().map_err(Error::io(path))?.len();
            bytes += last;
        }
        // One that was closed stays closed, even if the next was never begun.
        let shard = existing.len().saturating_sub(usize::from(last <= SHARD_BYTES));
        let file = append_to(folder, shard)?;
        Ok(Self { folder: folder.to_owned(), header, file, shard, recorded, bytes, _lock: lock })
    }

    /// What all sequences have in common.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Prompts and seeds whose sequences are complete; see [`Outline::key`](super::Outline::key).
    pub fn recorded(&self) -> &BTreeSet<(u32, u64)> {
        &self.recorded
    }

    /// Size of the trace.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a sequence.
    pub fn append(&mut self, sequence: &TracedSequence) -> Result<()> {
        self.append_payload(sequence.key(), &encode(sequence, &self.header))
    }

    fn append_payload(&mut self, key: (u32, u64), payload: &[u8]) -> Result<()> {
        if u32::try_from(payload.len()).is_err() {
            let problem = format!("a sequence of {} bytes is longer than a chunk can be", payload.len());
            return Err(Error::Trace { path: self.folder.clone(), problem });
        }
        let chunk = chunk(payload);
        let path = shard_path(&self.folder, self.shard);
        let write = |file: &mut File| -> std::io::Result<u64> {
            file.write_all(&chunk)?;
            file.sync_data()?;
            file.seek(SeekFrom::End(0))
        };
        let length = write(&mut self.file).map_err(Error::io(&path))?;
        self.bytes += chunk.len() as u64;
        self.recorded.insert(key);
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
    /// If the headers differ, the other trace can no longer be read, or this one not be written.
    pub fn merge(&mut self, other: &Trace, folder: &Path) -> Result<usize> {
        if let Some((field, theirs, ours)) = other.header.differences(&self.header).into_iter().next() {
            let into = self.folder.display();
            let problem = format!("is a trace whose {field} is {theirs}, that of {into} is {ours}");
            return Err(Error::Trace { path: folder.to_owned(), problem });
        }
        let mut added = 0;
        for (number, outline) in other.outlines().enumerate() {
            // One after another: a trace may be larger than memory.
            if !self.recorded.contains(&outline.key()) {
                self.append_payload(outline.key(), &other.payload(number)?)?;
                added += 1;
            }
        }
        Ok(added)
    }
}

pub(super) fn read_header(folder: &Path) -> Result<TraceHeader> {
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
pub(super) fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut shards = Vec::new();
    loop {
        let path = shard_path(folder, shards.len());
        if !path.exists() {
            return shards;
        }
        shards.push(path);
    }
}
