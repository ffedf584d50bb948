//! Recordings to learn from and to predict on.

use std::path::Path;
use std::sync::Arc;

use ltd_env::oracle::{self, Choices, Constant};
use ltd_env::trace::{Trace, TracedSequence};
use ltd_env::{Costs, Interrupt, Scatter};
use ltd_policy::LatencyTable;

use crate::config::StaticSetting;
use crate::evaluate::{Contender, Measurement, Prediction};
use crate::{Error, Result};

/// Recorded trees, and what cycles cost.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What is learned from.
    pub(crate) train: Arc<Trace>,
    /// What snapshots are compared on, and gains predicted.
    pub(crate) held_out: Trace,
    pub(crate) costs: Costs,
    pub(crate) table: LatencyTable,
    /// SHA-256 of the table's file.
    pub(crate) table_sha256: String,
    /// How the times that stages learn from scatter, if they do.
    pub(crate) scatter: Option<Scatter>,
    /// Every constant that the table has costs for, on the sequences that are learned from, fastest first.
    constants: Vec<Constant>,
}

impl Recorded {
    /// Divides the sequences of a trace, which `path` names in errors; see [`Recorded::split`].
    pub(crate) fn new(
        path: &Path,
        trace: &Trace,
        table: LatencyTable,
        held_out: f64,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (train, held_out) = Self::split(path, trace, held_out)?;
        let costs = Costs { model: table.model(), decision: table.decision };
        let table_sha256 = table.sha256();
        let train = Arc::new(train);
        let mut recorded =
            Self { train, held_out, costs, table, table_sha256, scatter: None, constants: Vec::new() };
        let Self { train, costs, .. } = &recorded;
        let mut constants = oracle::constants(train, costs, &recorded.choices(), interrupt)?;
        constants.sort_by(|a, b| b.tokens_per_second().total_cmp(&a.tokens_per_second()));
        recorded.constants = constants;
        Ok(recorded)
    }

    /// Holds out every n-th sequence that has positions, at least one.
    pub(crate) fn split(path: &Path, trace: &Trace, share: f64) -> Result<(Trace, Trace)> {
        let of = |sequences| Trace { sequences, header: trace.header.clone(), truncated: Vec::new() };
        let filled: Vec<TracedSequence> =
            trace.sequences.iter().filter(|sequence| !sequence.is_empty()).cloned().collect();
        if filled.len() < 2 {
            let count = filled.len();
            return Err(Error::Recorded(format!(
                "{}: {count} of its prompts have positions, expected at least 2: one is held out",
                path.display()
            )));
        }
        let share = share.max(1.0 / filled.len() as f64);
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (index, sequence) in filled.into_iter().enumerate() {
            let due = (share * (index + 1) as f64 + 1e-9).floor() > (share * index as f64 + 1e-9).floor();
            if due { held_out.push(sequence) } else { train.push(sequence) }
        }
        // A share near 1 leaves nothing to learn from.
        if train.is_empty() {
            train.extend(held_out.pop());
        }
        Ok((of(train), of(held_out)))
    }

    /// Replays contenders on the held-out sequences.
    pub(crate) fn measure(&self, contenders: &mut [Contender]) -> Vec<Measurement> {
        contenders.iter_mut().map(|contender| contender.replay(&self.held_out, &self.costs)).collect()
    }

    /// Every constant that the table has costs for, on the sequences that are learned from, fastest first.
    pub(crate) fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// The best constant whose levels expand the whole beam.
    pub(crate) fn best_whole_beam(&self, interrupt: &Interrupt) -> Result<Constant> {
        let constants = oracle::whole_beam_constants(&self.train, &self.costs, &self.choices(), interrupt)?;
        Ok(oracle::best(&constants))
    }

    /// Depths and sizes that the table has costs for.
    pub(crate) fn choices(&self) -> Choices {
        let deepest = self.table.level.counts().last().copied().unwrap_or(0).min(self.train.header.depth);
        Choices { depths: (0..=deepest).collect(), sizes: self.table.verify.counts() }
    }

    /// What replay on the held-out sequences says of contenders, beside a constant.
    pub(crate) fn predict(
        &self,
        contenders: &mut [Contender],
        constant: StaticSetting,
        interrupt: &Interrupt,
    ) -> Result<Vec<Prediction>> {
        let only = Choices { depths: vec![constant.depth], sizes: vec![constant.size] };
        let constant = oracle::constants(&self.held_out, &self.costs, &only, interrupt)?[0];
        let constant = constant.tokens_per_second();
        let clairvoyant = oracle::clairvoyant(&self.held_out, &self.costs, &self.choices(), interrupt)?;
        let measured = self.measure(contenders);
        let prediction = |measured: Measurement| {
            let reached = measured.total().tokens_per_second();
            Prediction {
                name: measured.name,
                tokens_per_second: reached,
                best_constant: constant,
                clairvoyant,
                gain: reached / constant - 1.0,
                gain_at_live_times: None,
                closed: oracle::closed(reached, constant, clairvoyant),
            }
        };
        Ok(measured.into_iter().map(prediction).collect())
    }
}
