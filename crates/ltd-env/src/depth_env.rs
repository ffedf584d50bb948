//! When to stop drafting, as a decision process.

use ltd_engine::Controller;
use ltd_policy::{DepthActions, DepthRule, ObservationLayout};

use crate::backend::{Cycle, CycleBackend};
use crate::env::{Decision, Env, Step};
use crate::episode::Episodes;
use crate::reward::RewardMeter;
use crate::{Error, Result};

/// One episode is one cycle. Asked at the depths where both actions are possible; continuing pays nothing, the end
/// of drafting pays the cycle's reward. The counterpart chooses the size.
pub struct DepthEnv<B: CycleBackend> {
    episodes: Episodes<B>,
    actions: DepthActions,
}

impl<B: CycleBackend> DepthEnv<B> {
    /// An environment over the cycles of `backend`.
    pub fn new(
        backend: B,
        counterpart: Box<dyn Controller>,
        actions: DepthActions,
        layout: ObservationLayout,
        reward: RewardMeter,
    ) -> Self {
        Self { episodes: Episodes::new(backend, counterpart, layout, reward), actions }
    }

    /// Drafts until a decision is due or drafting is over; says whether a decision is due.
    fn draft_to_decision(&mut self, cycle: &mut B::Cycle) -> Result<bool> {
        loop {
            match self.actions.rule_at(cycle.summary().draft_depth) {
                DepthRule::Ask => return Ok(true),
                DepthRule::Stop => return Ok(false),
                DepthRule::Continue => self.episodes.backend.expand(cycle)?,
            }
        }
    }
}

impl<B: CycleBackend> Env for DepthEnv<B> {
    fn observation_len(&self) -> usize {
        self.episodes.layout.len()
    }

    fn n_actions(&self) -> usize {
        DepthActions::COUNT
    }

    fn reset(&mut self, observation: &mut [f32]) -> Result<()> {
        let mut cycle = self.episodes.begin()?;
        let asked = self.draft_to_decision(&mut cycle)?;
        debug_assert!(asked, "a table with min_depth < max_depth asks at min_depth");
        self.episodes.show(cycle, observation);
        Ok(())
    }

    fn step(&mut self, decision: Decision, observation: &mut [f32]) -> Result<Step> {
        let Decision { action, elapsed } = decision;
        if action >= DepthActions::COUNT {
            return Err(Error::UnknownAction { action, count: DepthActions::COUNT });
        }
        let mut cycle = self.episodes.take(elapsed)?;
        if action == DepthActions::CONTINUE {
            self.episodes.backend.expand(&mut cycle)?;
            if self.draft_to_decision(&mut cycle)? {
                self.episodes.show(cycle, observation);
                return Ok(Step { reward: 0.0, terminated: false, truncated: false, outcome: None });
            }
        }
        let size = cycle.decide(|summary| self.episodes.counterpart.verification_size(summary));
        self.episodes.finish(cycle, size)
    }

    fn state(&self) -> serde_json::Value {
        self.episodes.state()
    }

    fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()> {
        self.episodes.restore(state, observation)
    }
}
