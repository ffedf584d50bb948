//! Where cycles come from: live models, later recorded traces.

use ltd_cycle::{Cycle, CycleOutcome};
use ltd_policy::{Agreement, Calibration, SourceSummary};

use crate::Result;

/// A source of cycles, one after another. What all environments share, whoever runs the cycles.
pub trait CycleBackend {
    /// A cycle of this source.
    type Cycle: Cycle;

    /// Readies the sequence of the next cycle, which may take long: no cycle pays for it.
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// What is known before the next cycle.
    fn source_summary(&mut self) -> Result<SourceSummary>;

    /// Runs the next cycle, which copies at most `chain` tokens in place of drafting.
    fn copy(&mut self, chain: usize) -> Result<CycleOutcome>;

    /// Starts the next cycle, which will verify at most `size_limit` candidates: root expansion.
    fn begin(&mut self, size_limit: usize) -> Result<Self::Cycle>;

    /// What the draft model thinks of the first token to copy, once the root expansion of a cycle
    /// is made; none where nothing matches, or candidates have no tokens.
    fn agreement(&mut self, cycle: &Self::Cycle) -> Result<Option<Agreement>>;

    /// Drafts one more level.
    fn expand(&mut self, cycle: &mut Self::Cycle) -> Result<()>;

    /// Verifies the best `size` candidates and ends the cycle.
    fn verify(&mut self, cycle: Self::Cycle, size: usize) -> Result<CycleOutcome>;

    /// Verifies the `size` most probable of the candidates and of at most `chain` tokens of what
    /// was said before, and ends the cycle.
    fn merge(
        &mut self,
        cycle: Self::Cycle,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<CycleOutcome>;

    /// A copy of the cycle under way to try decisions on, where outcomes are known in advance;
    /// `None` elsewhere. Expanding it leaves the source as it is.
    fn duplicate(&self, _cycle: &Self::Cycle) -> Option<Self::Cycle> {
        None
    }

    /// What [`CycleBackend::verify`] would return for the cycle under way or a copy of it, where
    /// that is known in advance; `None` elsewhere. The source stays where it is.
    fn foresee(&self, _cycle: &Self::Cycle, _size: usize) -> Option<CycleOutcome> {
        None
    }

    /// What [`CycleBackend::merge`] would return for the cycle under way or a copy of it, where
    /// that is known in advance; `None` elsewhere. The source stays where it is.
    fn foresee_merge(
        &self,
        _cycle: &Self::Cycle,
        _size: usize,
        _chain: usize,
        _calibration: &Calibration,
    ) -> Result<Option<CycleOutcome>> {
        Ok(None)
    }

    /// What [`CycleBackend::copy`] would return, where that is known in advance; `None` elsewhere.
    /// The source stays where it is.
    fn foresee_copy(&self, _chain: usize) -> Option<CycleOutcome> {
        None
    }

    /// Whether times are those of a clock. If not, decisions take what is known of them, whatever
    /// the learner took.
    fn has_clock(&self) -> bool {
        true
    }

    /// Where the source stands, the cycle under way not included.
    fn state(&self) -> serde_json::Value;

    /// Returns to where a source stood.
    fn restore(&mut self, state: serde_json::Value) -> Result<()>;
}
