//! A cycle under way, whoever runs it, and how a controller drafts in it.

use std::time::{Duration, Instant};

use ltd_policy::CycleSummary;

use crate::Controller;

/// A cycle under way.
pub trait Cycle {
    /// What a policy may see now.
    fn summary(&self) -> CycleSummary<'_>;

    /// Adds the time of a decision that was made elsewhere (by a trainer) to the cycle.
    fn add_policy_time(&mut self, elapsed: Duration);

    /// Makes a decision on the cycle's clock: the time that `decide` takes counts as policy time.
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

/// Drafts levels with `expand` until the controller stops, the cycle is `max_depth` deep, or no
/// candidate is left to expand.
pub fn draft<C: Cycle, E>(
    controller: &mut (impl Controller + ?Sized),
    cycle: &mut C,
    max_depth: usize,
    mut expand: impl FnMut(&mut C) -> Result<(), E>,
) -> Result<(), E> {
    let can_go_on = |cycle: &C| {
        let CycleSummary { draft_depth, frontier, .. } = cycle.summary();
        draft_depth < max_depth && frontier > 0
    };
    while can_go_on(cycle) && cycle.decide(|summary| controller.continue_drafting(summary)) {
        expand(cycle)?;
    }
    Ok(())
}
