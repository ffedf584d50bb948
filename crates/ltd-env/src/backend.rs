//! Where cycles come from: live models, later recorded traces.

use std::time::{Duration, Instant};

use ltd_engine::CycleOutcome;
use ltd_policy::CycleSummary;

use crate::Result;

/// A cycle under way.
pub trait Cycle {
    /// What a policy may see now.
    fn summary(&self) -> CycleSummary<'_>;

    /// Adds the time of a decision to the cycle.
    fn add_policy_time(&mut self, elapsed: Duration);

    /// Makes a decision on the cycle's clock.
    fn decide<T>(&mut self, decide: impl FnOnce(&CycleSummary) -> T) -> T
    where
        Self: Sized,
    {
        let start = Instant::now();
        let decision = decide(&self.summary());
        self.add_policy_time(start.elapsed());
        decision
    }
}

/// A source of cycles, one after another. What both environments share, whoever runs the cycles.
pub trait CycleBackend {
    /// A cycle of this source.
    type Cycle: Cycle;

    /// Starts the next cycle: root expansion.
    fn begin(&mut self) -> Result<Self::Cycle>;

    /// Drafts one more level.
    fn expand(&mut self, cycle: &mut Self::Cycle) -> Result<()>;

    /// Verifies the best `size` candidates and ends the cycle.
    fn verify(&mut self, cycle: Self::Cycle, size: usize) -> Result<CycleOutcome>;

    /// Where the source stands, the cycle under way not included.
    fn state(&self) -> serde_json::Value;

    /// Returns to where a source stood.
    fn restore(&mut self, state: serde_json::Value) -> Result<()>;
}
