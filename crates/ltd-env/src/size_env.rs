//! How many candidates to verify, as a decision process.

use ltd_cycle::{Controller, draft};
use ltd_policy::{ObservationLayout, SizeActions};

use crate::backend::CycleBackend;
use crate::env::{Decision, Env, PolicyFn, Step};
use crate::episode::Episodes;
use crate::reward::RewardMeter;
use crate::{Error, Result};

/// One episode is one cycle and one decision: the counterpart drafts, the policy chooses the size,
/// the cycle pays. Cycles that the counterpart has copy go by.
pub struct SizeEnv<B: CycleBackend> {
    episodes: Episodes<B>,
    actions: SizeActions,
}

impl<B: CycleBackend> SizeEnv<B> {
    /// An environment over the cycles of `backend`. The depth of the layout bounds the
    /// counterpart's drafts.
    pub fn new(
        backend: B,
        counterpart: Box<dyn Controller>,
        actions: SizeActions,
        layout: ObservationLayout,
        reward: RewardMeter,
    ) -> Self {
        let size_limit = actions.largest();
        Self { episodes: Episodes::new(backend, counterpart, layout, reward, size_limit), actions }
    }
}

impl<B: CycleBackend> Env for SizeEnv<B> {
    fn observation_len(&self) -> usize {
        self.episodes.layout.len()
    }

    fn n_actions(&self) -> usize {
        self.actions.sizes.len()
    }

    fn reset(&mut self, observation: &mut [f32]) -> Result<()> {
        let depth_cap = self.episodes.layout.depth_cap;
        let mut cycle = self.episodes.begin()?;
        let Episodes { backend, counterpart, .. } = &mut self.episodes;
        draft(counterpart.as_mut(), &mut cycle, depth_cap, |cycle| backend.expand(cycle))?;
        self.episodes.show(cycle, observation);
        Ok(())
    }

    fn step(&mut self, decision: Decision, _observation: &mut [f32]) -> Result<Step> {
        let Decision { action, elapsed } = decision;
        let count = self.n_actions();
        let size = *self.actions.sizes.get(action).ok_or(Error::UnknownAction { action, count })?;
        let cycle = self.episodes.take(elapsed)?;
        self.episodes.finish(cycle, size)
    }

    fn action_values(&mut self, _policy: &mut PolicyFn, _gamma: f32) -> Result<Option<Vec<f32>>> {
        let cycle = self.episodes.pending()?;
        self.actions.sizes.iter().map(|&size| self.episodes.worth(cycle, size)).collect()
    }

    fn lambda(&self) -> Option<f64> {
        self.episodes.reward.lambda()
    }

    fn state(&self) -> serde_json::Value {
        self.episodes.state()
    }

    fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()> {
        self.episodes.restore(state, observation)
    }
}
