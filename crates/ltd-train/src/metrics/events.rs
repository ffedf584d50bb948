//! TensorBoard event files: records (`TFRecord`) of protocol buffers (TensorFlow's `event.proto`
//! and `summary.proto`, of which only the fields that are written stand here).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;

use super::record::Record;
use crate::run::{seconds_since_1970, unix_time};
use crate::{Error, Result};

/// How TensorBoard knows its files.
const PREFIX: &str = "events.out.tfevents.";
/// Where the first event says which form the file has.
const VERSION: &str = "brain.Event:2";

/// Whether a file of this name has the events of a run.
pub(crate) fn is_events_file(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

/// The event file of a folder, which TensorBoard shows as one run.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts the event file of `folder` anew, with the records that there are already. Files of
    /// earlier processes go: they may end in the middle of an event, and hold steps that will be
    /// taken once more.
    pub(super) fn create(folder: &Path, records: &[Record]) -> Result<Self> {
        let io = |source| Error::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        // TensorBoard goes on from file to file in the order of their names, which begin with a
        // time.
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

        let wall_time = seconds_since_1970();
        let version = Event { wall_time, file_version: Some(VERSION.to_owned()), ..Event::default() };
        // Whoever watched the earlier files forgets what they said.
        let session_log = Some(SessionLog { status: SESSION_START });
        let begin = Event { wall_time, session_log, ..Event::default() };
        events.append([version, begin].into_iter().chain(records.iter().flat_map(of_record)))?;
        Ok(events)
    }

    pub(super) fn write(&mut self, record: &Record) -> Result<()> {
        self.append(of_record(record))
    }

    /// Appends events in one go.
    fn append(&mut self, events: impl Iterator<Item = Event>) -> Result<()> {
        let mut bytes = Vec::new();
        for event in events {
            append_record(&event.encode_to_vec(), &mut bytes);
        }
        self.file.write_all(&bytes).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// Appends a `TFRecord`: length, content, and a checksum of each.
fn append_record(content: &[u8], bytes: &mut Vec<u8>) {
    // Checksums of data that holds checksums would be weak: they are rotated, and a constant is
    // added.
    let checksum =
        |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (content.len() as u64).to_le_bytes();
    for part in [&length[..], &checksum(&length), content, &checksum(content)] {
        bytes.extend_from_slice(part);
    }
}

/// The events of a record: one per curve and histogram.
fn of_record(record: &Record) -> impl Iterator<Item = Event> {
    let scalars = record.values.iter().map(|(tag, value)| SummaryValue {
        tag: tag.clone(),
        simple_value: Some(*value as f32),
        histogram: None,
    });
    let histograms = record.histograms.iter().filter_map(|(tag, counts)| {
        Some(SummaryValue { tag: tag.clone(), simple_value: None, histogram: Some(histogram(counts)?) })
    });
    scalars.chain(histograms).map(|value| Event {
        wall_time: record.wall_time,
        step: record.timesteps as i64,
        summary: Some(Summary { value: vec![value] }),
        ..Event::default()
    })
}

/// One bucket per value: all are small whole numbers.
fn histogram(counts: &BTreeMap<usize, usize>) -> Option<Histogram> {
    let (&least, &greatest) = (counts.keys().next()?, counts.keys().next_back()?);
    let moment = |power: i32| {
        counts.iter().map(|(value, count)| (*value as f64).powi(power) * *count as f64).sum::<f64>()
    };
    Some(Histogram {
        min: least as f64,
        max: greatest as f64,
        num: moment(0),
        sum: moment(1),
        sum_squares: moment(2),
        bucket_limit: (least..=greatest).map(|value| value as f64 + 0.5).collect(),
        bucket: (least..=greatest).map(|value| counts.get(&value).copied().unwrap_or(0) as f64).collect(),
    })
}

/// `Event`, of whose contents one is there.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// [`SESSION_START`].
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`.
const SESSION_START: i32 = 1;

/// `Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

/// `Summary.Value`, of whose contents one is there.
#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "5")]
    histogram: Option<Histogram>,
}

/// `HistogramProto`.
#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// Upper end of each bucket.
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_checksums_that_tensorflow_writes() {
        let mut bytes = Vec::new();
        // As `tf.io.TFRecordWriter` frames these five bytes.
        append_record(b"hello", &mut bytes);
        let expected = "0500000000000000eab2043e68656c6c6fbb1f1c19";
        let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
    }
}
