//! TensorBoard event files: events and framing are tensorboard-rs's, the file is ours. The crate's own writers panic,
//! in a thread and again when they are dropped, where a disk is full.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use protobuf::Message;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::Summary;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary;

use super::Record;
use crate::run::{seconds_since_1970, unix_time};
use crate::{Error, Result};

/// How TensorBoard knows its files.
const PREFIX: &str = "events.out.tfevents.";
/// Where the first event says which form the file has.
const VERSION: &str = "brain.Event:2";

/// The event file of a folder, which TensorBoard shows as one run.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts the event file of `folder` anew, with the records that there are already. Files of earlier processes go:
    /// they may end in the middle of an event, and hold steps that will be taken once more.
    pub(super) fn create(folder: &Path, records: &[Record]) -> Result<Self> {
        let io = |source| Error::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        // TensorBoard goes on from file to file in the order of their names, which begin with a time.
        let mut time = unix_time();
        for entry in folder.read_dir().map_err(io)? {
            let path = entry.map_err(io)?.path();
            let Some(earlier) = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)) else {
                continue;
            };
            let begun = earlier.split('.').next().and_then(|begun| begun.parse::<u64>().ok());
            time = time.max(begun.map_or(0, |begun| begun.saturating_add(1)));
            std::fs::remove_file(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        let path = folder.join(format!("{PREFIX}{time:010}.ltd-train.{}.0", std::process::id()));
        let open = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = open.map_err(|source| Error::Io { path: path.clone(), source })?;
        let mut events = Self { path, file };

        let mut version = Event::new();
        version.set_wall_time(seconds_since_1970());
        version.set_file_version(VERSION.to_owned());
        // Whoever watched the earlier files forgets what they said.
        let mut restart = SessionLog::new();
        restart.set_status(SessionLog_SessionStatus::START);
        let mut begin = Event::new();
        begin.set_wall_time(seconds_since_1970());
        begin.set_session_log(restart);
        events.append([version, begin].into_iter().chain(records.iter().flat_map(of_record)))?;
        Ok(events)
    }

    pub(super) fn write(&mut self, record: &Record) -> Result<()> {
        self.append(of_record(record))
    }

    /// Appends events in one go.
    fn append(&mut self, events: impl Iterator<Item = Event>) -> Result<()> {
        let mut bytes = Vec::new();
        let mut framed = RecordWriter::new(&mut bytes);
        for event in events {
            let event = event.write_to_bytes().expect("invariant: no field is required");
            framed.write(&event).expect("invariant: memory can be written to");
        }
        self.file.write_all(&bytes).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// The events of a record: one per curve and histogram.
fn of_record(record: &Record) -> impl Iterator<Item = Event> {
    let scalars = record.values.iter().map(|(tag, value)| summary::scalar(tag, *value as f32));
    let histograms = record.histograms.iter().filter_map(|(tag, counts)| histogram(tag, counts));
    scalars.chain(histograms).map(|summary| {
        let mut event = Event::new();
        event.set_wall_time(record.wall_time);
        event.set_step(record.timesteps as i64);
        event.set_summary(summary);
        event
    })
}

/// One bucket per value: all are small whole numbers.
fn histogram(tag: &str, counts: &BTreeMap<usize, usize>) -> Option<Summary> {
    let (&least, &greatest) = (counts.keys().next()?, counts.keys().next_back()?);
    let moment = |power: i32| {
        counts.iter().map(|(value, count)| (*value as f64).powi(power) * *count as f64).sum::<f64>()
    };
    let limits: Vec<f64> = (least..=greatest).map(|value| value as f64 + 0.5).collect();
    let buckets: Vec<f64> =
        (least..=greatest).map(|value| counts.get(&value).copied().unwrap_or(0) as f64).collect();
    let [count, sum, squares] = [0, 1, 2].map(moment);
    let (least, greatest) = (least as f64, greatest as f64);
    Some(summary::histogram_raw(tag, least, greatest, count, sum, squares, &limits, &buckets))
}
