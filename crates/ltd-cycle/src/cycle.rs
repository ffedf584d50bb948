//! A cycle under way, whoever runs it, and how a controller drafts in it.

use std::time::{Duration, Instant};

use ltd_policy::CycleSummary;

use crate::{Controller, Glimpse};

/// A cycle under way.
pub trait Cycle {
    /// What a policy may see now.
    fn summary(&self) -> CycleSummary<'_>;

    /// What a controller that looks may see now; none of a cycle that was begun for one that does
    /// not.
    fn glimpse(&self) -> Option<Glimpse<'_>> {
        None
    }

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
///
/// # Panics
/// If the controller [looks](Controller::looks) and the cycle has nothing to show: it was begun for
/// another one.
pub fn draft<C: Cycle, E>(
    controller: &mut (impl Controller + ?Sized),
    cycle: &mut C,
    max_depth: usize,
    mut expand: impl FnMut(&mut C) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        if controller.looks().any() {
            let start = Instant::now();
            let glimpse = cycle.glimpse().expect("a cycle that was begun for a controller that looks");
            controller.look(&cycle.summary(), &glimpse);
            cycle.add_policy_time(start.elapsed());
        }
        if !cycle.decide(|summary| goes_on(controller, summary, max_depth)) {
            return Ok(());
        }
        expand(cycle)?;
    }
}

/// Whether another level is drafted: one that can be verified, and that the controller wants.
pub fn goes_on(
    controller: &mut (impl Controller + ?Sized),
    summary: &CycleSummary,
    max_depth: usize,
) -> bool {
    summary.draft_depth < max_depth && summary.frontier > 0 && controller.continue_drafting(summary)
}
