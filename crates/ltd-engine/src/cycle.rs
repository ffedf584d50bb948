//! The draft-and-verify cycle.

use std::time::Duration;

use ltd_policy::CycleSummary;

use crate::{Controller, CycleOutcome, Result};

/// A target and a draft model that work together.
pub struct Engine {}

/// One sequence being generated: its tokens, caches and pending features.
pub struct Session {}

/// A cycle under way: the draft tree so far and its clock.
pub struct CycleState {}

impl Engine {
    /// Deepest draft this engine's caches allow, `D <= 12`.
    pub fn max_depth(&self) -> usize {
        todo!()
    }

    /// Candidates kept per level, `W`.
    pub fn beam_width(&self) -> usize {
        todo!()
    }

    /// Runs the target (and the draft's stable cache) over a prompt and starts a sequence. Reuses the caches of
    /// the session passed to `recycle`, if any.
    pub fn prefill(&self, _prompt: &[u32], _recycle: Option<Session>) -> Result<Session> {
        todo!()
    }

    /// Starts a cycle: root expansion.
    pub fn begin_cycle(&self, _session: &mut Session) -> Result<CycleState> {
        todo!()
    }

    /// Drafts one more level.
    pub fn expand(&self, _session: &mut Session, _cycle: &mut CycleState) -> Result<()> {
        todo!()
    }

    /// Verifies the best `size` candidates, commits what is accepted and ends the cycle.
    pub fn verify(&self, _session: &mut Session, _cycle: CycleState, _size: usize) -> Result<CycleOutcome> {
        todo!()
    }

    /// One whole cycle under a controller: what serving, evaluation and the environments' counterpart run.
    pub fn run_cycle(&self, session: &mut Session, controller: &mut dyn Controller) -> Result<CycleOutcome> {
        let mut cycle = self.begin_cycle(session)?;
        controller.begin_cycle();
        while cycle.draft_depth() < self.max_depth()
            && cycle.decide(|summary| controller.continue_drafting(summary))
        {
            self.expand(session, &mut cycle)?;
        }
        let size = cycle.decide(|summary| controller.verification_size(summary));
        let outcome = self.verify(session, cycle, size)?;
        controller.observe(&outcome);
        Ok(outcome)
    }

    /// One plain autoregressive step: appends the root and returns it with the time the step took.
    pub fn autoregressive_step(&self, _session: &mut Session) -> Result<(u32, Duration)> {
        todo!()
    }
}

impl Session {
    /// All tokens whose keys and values are cached: the prompt and what was appended since.
    pub fn tokens(&self) -> &[u32] {
        todo!()
    }

    /// The target's last token, not yet cached: root of the next draft tree.
    pub fn root(&self) -> u32 {
        todo!()
    }

    /// Whether the cache has room for one more token.
    pub fn is_full(&self) -> bool {
        todo!()
    }
}

impl CycleState {
    /// Draft forwards made after the root expansion.
    pub fn draft_depth(&self) -> usize {
        todo!()
    }

    /// What a policy may see now.
    pub fn summary(&self) -> CycleSummary<'_> {
        todo!()
    }

    /// Makes a decision on the cycle's clock: the time `decide` takes counts as policy time.
    pub fn decide<T>(&mut self, _decide: impl FnOnce(&CycleSummary) -> T) -> T {
        todo!()
    }

    /// Adds the time of a decision that was made elsewhere (by a trainer) to the policy time.
    pub fn add_policy_time(&mut self, _elapsed: Duration) {
        todo!()
    }
}
