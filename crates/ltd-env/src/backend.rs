//! Where cycles come from: live models, later recorded traces.

use ltd_cycle::{Cycle, CycleOutcome};

use crate::Result;

/// A source of cycles, one after another. What both environments share, whoever runs the cycles.
pub trait CycleBackend {
    /// A cycle of this source.
    type Cycle: Cycle;

    /// Starts the next cycle, which will verify at most `size_limit` candidates: root expansion.
    fn begin(&mut self, size_limit: usize) -> Result<Self::Cycle>;

    /// Drafts one more level.
    fn expand(&mut self, cycle: &mut Self::Cycle) -> Result<()>;

    /// Verifies the best `size` candidates and ends the cycle.
    fn verify(&mut self, cycle: Self::Cycle, size: usize) -> Result<CycleOutcome>;

    /// A copy of the cycle under way to try decisions on, where outcomes are known in advance;
    /// `None` elsewhere. Expanding it leaves the source as it is.
    fn copy(&self, _cycle: &Self::Cycle) -> Option<Self::Cycle> {
        None
    }

    /// What [`CycleBackend::verify`] would return for the cycle under way or a copy of it, where
    /// that is known in advance; `None` elsewhere. The source stays where it is.
    fn foresee(&self, _cycle: &Self::Cycle, _size: usize) -> Option<CycleOutcome> {
        None
    }

    /// Where the source stands, the cycle under way not included.
    fn state(&self) -> serde_json::Value;

    /// Returns to where a source stood.
    fn restore(&mut self, state: serde_json::Value) -> Result<()>;
}
