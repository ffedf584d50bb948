//! TensorBoard event files, through tensorboard-rs: the one place that knows the crate.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tensorboard_rs::summary_writer::SummaryWriter;

use super::Record;
use crate::run::unix_time;
use crate::{Error, Result};

/// An event file.
pub(super) struct Events(SummaryWriter);

impl Events {
    /// Starts a new event file in `folder`, which TensorBoard shows as one run.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        // The crate panics where it cannot write: find out first.
        let io = |source| Error::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        tempfile::tempfile_in(folder).map_err(io)?;
        // It names files by second and process, and writes over one of the same name.
        while std::fs::read_dir(folder).map_err(io)?.flatten().any(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("events.out.tfevents.{:010}", unix_time()))
        }) {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self(SummaryWriter::new(folder)))
    }

    pub(super) fn write(&mut self, record: &Record) {
        for (tag, value) in &record.values {
            self.0.add_scalar(tag, *value as f32, record.timesteps);
        }
        for (tag, counts) in &record.histograms {
            self.histogram(tag, counts, record.timesteps);
        }
        self.0.flush();
    }

    /// One bucket per value: all are small whole numbers.
    fn histogram(&mut self, tag: &str, counts: &BTreeMap<usize, usize>, timesteps: usize) {
        let (Some(&least), Some(&greatest)) = (counts.keys().next(), counts.keys().next_back()) else {
            return;
        };
        let moment = |power: i32| {
            counts.iter().map(|(value, count)| (*value as f64).powi(power) * *count as f64).sum::<f64>()
        };
        let limits: Vec<f64> = (least..=greatest).map(|value| value as f64 + 0.5).collect();
        let buckets: Vec<f64> =
            (least..=greatest).map(|value| counts.get(&value).copied().unwrap_or(0) as f64).collect();
        self.0.add_histogram_raw(
            tag,
            least as f64,
            greatest as f64,
            moment(0),
            moment(1),
            moment(2),
            &limits,
            &buckets,
            timesteps,
        );
    }
}
