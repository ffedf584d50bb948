//! Curves: as TensorBoard events, and as JSON lines, which are the record of truth.

mod curves;
mod events;
mod record;
pub mod tags;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub(crate) use curves::{RankPace, predictor_record, rollout_record, validation_record};
use events::Events;
pub(crate) use events::is_events_file;
pub(crate) use record::Record;

use crate::run::seconds_since_1970;
use crate::{Error, Result};

/// The curves of a run; of all ranks, the first writes them.
pub(crate) struct Metrics(Option<Files>);

/// Where they are.
struct Files {
    path: PathBuf,
    lines: File,
    /// Bytes of the complete lines.
    length: u64,
    /// Events of the whole run.
    run: Events,
    /// Those of the stage under way.
    stage: Option<Events>,
}

impl Metrics {
    /// Curves that nobody keeps.
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Goes on with the curves of the run in `folder`, whose lines are in `json_lines`: what stands
    /// there after the first `length` bytes will be written again, and is dropped.
    pub(crate) fn open(json_lines: &Path, length: u64, folder: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: json_lines.to_owned(), source };
        let mut options = OpenOptions::new();
        let lines = options.create(true).read(true).append(true).open(json_lines).map_err(io)?;
        let (records, length) = read(&lines, length).map_err(io)?;
        lines.set_len(length).map_err(io)?;
        let run = Events::create(folder, &of_stage(records, ""))?;
        Ok(Self(Some(Files { path: json_lines.to_owned(), lines, length, run, stage: None })))
    }

    /// Goes on with the curves of a stage, whose events are in `folder`.
    pub(crate) fn begin_stage(&mut self, stage: &str, folder: &Path) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |files| files.begin_stage(stage, folder))
    }

    /// Bytes of the lines so far. A checkpoint notes them: the records in them are those of its
    /// past.
    pub(crate) fn length(&self) -> u64 {
        self.0.as_ref().map_or(0, |files| files.length)
    }

    /// Writes a record to both places.
    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |files| files.write(record))
    }
}

impl Files {
    fn begin_stage(&mut self, stage: &str, folder: &Path) -> Result<()> {
        let read = read(&self.lines, self.length);
        let (records, _) = read.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.stage = Some(Events::create(folder, &of_stage(records, stage))?);
        Ok(())
    }

    fn write(&mut self, record: Record) -> Result<()> {
        let record = Record { wall_time: seconds_since_1970(), ..record };
        let line = serde_json::to_string(&record).expect("invariant: a record is plain data") + "\n";
        self.lines
            .write_all(line.as_bytes())
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let events = if record.stage.is_empty() { Some(&mut self.run) } else { self.stage.as_mut() };
        events.expect("invariant: a stage's records come after its beginning").write(&record)?;
        self.length += line.len() as u64;
        Ok(())
    }
}

/// The records in the first `length` bytes, and the length of the lines that are whole: a machine
/// that lost its power may have lost the end of a file.
fn read(mut lines: &File, length: u64) -> std::io::Result<(Vec<Record>, u64)> {
    let mut bytes = Vec::new();
    lines.seek(SeekFrom::Start(0))?;
    lines.take(length).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let lines = bytes[..whole].split(|&byte| byte == b'\n');
    Ok((lines.filter_map(|line| serde_json::from_slice(line).ok()).collect(), whole as u64))
}

fn of_stage(records: Vec<Record>, stage: &str) -> Vec<Record> {
    records.into_iter().filter(|record| record.stage == stage).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(stage: &str, timesteps: usize) -> Record {
        let values = BTreeMap::from([("train/loss".to_owned(), f64::NAN)]);
        Record { stage: stage.to_owned(), timesteps, values, ..Record::default() }
    }

    fn steps(path: &Path) -> Vec<(String, usize)> {
        let text = std::fs::read_to_string(path).expect("lines");
        let records = text.lines().map(|line| serde_json::from_str::<Record>(line).expect("a record"));
        records.map(|record| (record.stage, record.timesteps)).collect()
    }

    #[test]
    fn lines_after_a_checkpoint_and_lines_that_are_cut_off_are_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, stage) = (folder.path().join("metrics.jsonl"), folder.path().join("stage"));
        let mut metrics = Metrics::open(&path, 0, folder.path()).expect("opened");
        metrics.begin_stage("01-size", &stage).expect("begun");
        metrics.write(record("01-size", 128)).expect("written");
        metrics.write(record("", 0)).expect("written");
        let kept = metrics.length();
        metrics.write(record("01-size", 256)).expect("written");
        assert_eq!(metrics.length(), path.metadata().expect("a file").len());

        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"{\"stage\": \"01-s").expect("written");
        let both = vec![("01-size".to_owned(), 128), (String::new(), 0)];
        // What is cut off goes even where all was to be kept.
        Metrics::open(&path, u64::MAX, folder.path()).expect("opened");
        assert_eq!(steps(&path), [&both[..], &[("01-size".to_owned(), 256)]].concat());
        let mut metrics = Metrics::open(&path, kept, folder.path()).expect("opened");
        assert_eq!(steps(&path), both);
        metrics.begin_stage("01-size", &stage).expect("begun");
        metrics.write(record("01-size", 384)).expect("written");
        assert_eq!(steps(&path), [&both[..], &[("01-size".to_owned(), 384)]].concat());
        assert_eq!(stage.read_dir().expect("a folder").count(), 1, "one event file");
    }
}
