//! Curves: as TensorBoard events, and as JSON lines, which are the record of truth.

mod events;
mod record;
pub mod tags;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ltd_policy::write_atomically;
use serde::{Deserialize, Serialize};

use events::Events;
pub(crate) use record::{predictor_record, rollout_record, validation_record};

use crate::{Error, Result};

/// Values at one point of a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Stage, or empty for curves of the whole run.
    pub(crate) stage: String,
    /// The x axis: steps of the stage, or of the run.
    pub(crate) timesteps: usize,
    /// By tag.
    pub(crate) values: BTreeMap<String, f64>,
    /// Cycles by value, by tag.
    pub(crate) histograms: BTreeMap<String, BTreeMap<usize, usize>>,
}

/// Writes records of one stage, or of the whole run.
pub(crate) struct Metrics {
    path: PathBuf,
    lines: File,
    events: Events,
}

impl Metrics {
    /// Appends to the run's JSON lines, and starts an event file in `folder`.
    pub(crate) fn open(json_lines: &Path, folder: &Path) -> Result<Self> {
        let open = File::options().create(true).append(true).open(json_lines);
        let lines = open.map_err(|source| Error::Io { path: json_lines.to_owned(), source })?;
        Ok(Self { path: json_lines.to_owned(), lines, events: Events::create(folder)? })
    }

    /// Writes a record to both places.
    pub(crate) fn write(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record).expect("invariant: a record is plain data") + "\n";
        self.lines
            .write_all(line.as_bytes())
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.events.write(record);
        Ok(())
    }
}

/// Drops the lines that a resumed run will write again: those for which `keep` does not hold, and a last line that
/// was cut off.
pub(crate) fn rewind(json_lines: &Path, keep: impl Fn(&Record) -> bool) -> Result<()> {
    let text = match std::fs::read_to_string(json_lines) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Io { path: json_lines.to_owned(), source }),
    };
    let kept: String = text
        .lines()
        .filter(|line| serde_json::from_str(line).is_ok_and(|record: Record| keep(&record)))
        .flat_map(|line| [line, "\n"])
        .collect();
    Ok(write_atomically(json_lines, kept.as_bytes())?)
}
