//! Who decides how deep to draft and how many candidates to verify.

use ltd_policy::CycleSummary;

use crate::CycleOutcome;

/// Steers a cycle. Static settings, heuristics and learned policies all implement it.
pub trait Controller {
    /// Called when a cycle starts, before its first decision.
    fn begin_cycle(&mut self) {}

    /// Whether to draft one more level. Asked after the root expansion and after each level while the depth is
    /// below the engine's limit.
    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool;

    /// How many candidates to verify. Asked once per cycle, after drafting.
    fn verification_size(&mut self, summary: &CycleSummary) -> usize;

    /// Called with the outcome of each cycle, outside its clock.
    fn observe(&mut self, _outcome: &CycleOutcome) {}
}

/// A fixed depth and a fixed verification size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    /// Draft forwards after the root expansion.
    pub depth: usize,
    /// Candidates to verify.
    pub size: usize,
}

impl Controller for Static {
    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}
