//! What to draft from, as a decision process.

use std::time::{Duration, Instant};

use ltd_cycle::{Controller, Cycle, draft};
use ltd_policy::{DraftSource, Merged, ObservationLayout, SourceActions};
use serde::{Deserialize, Serialize};

use crate::backend::CycleBackend;
use crate::env::{Decision, Env, PolicyFn, Step};
use crate::episode::{Episodes, MOST_UNASKED};
use crate::reward::RewardMeter;
use crate::{Error, Result};

/// One episode is one cycle and one decision: the policy chooses between a tree, which the
/// counterpart drafts and sizes, chains to copy, and both in one; the cycle pays. Asked where there
/// is something to copy, or plain decoding is among the actions.
pub struct SourceEnv<B: CycleBackend> {
    episodes: Episodes<B>,
    actions: SourceActions,
    /// Whether a decision is due.
    asked: bool,
    /// Time that it took to find what is known.
    looking: Duration,
}

#[derive(Serialize, Deserialize)]
struct State {
    asked: bool,
    episodes: serde_json::Value,
}

impl<B: CycleBackend> SourceEnv<B> {
    /// An environment over the cycles of `backend`. Of the counterpart, what it would draft from is
    /// not asked.
    pub fn new(
        backend: B,
        counterpart: Box<dyn Controller>,
        actions: SourceActions,
        layout: ObservationLayout,
        reward: RewardMeter,
    ) -> Self {
        let size_limit = counterpart.size_limit();
        Self {
            episodes: Episodes::new(backend, counterpart, layout, reward, size_limit),
            actions,
            asked: false,
            looking: Duration::ZERO,
        }
    }

    /// A cycle with a tree, as the counterpart drafts it.
    fn drafted(&mut self, merged: Option<Merged>) -> Result<B::Cycle> {
        let max_depth = self.episodes.layout.depth_cap;
        self.episodes.counterpart.begin_cycle();
        let mut cycle = self.episodes.begin_tree(merged)?;
        let Episodes { backend, counterpart, .. } = &mut self.episodes;
        draft(counterpart.as_mut(), &mut cycle, max_depth, |cycle| backend.expand(cycle))?;
        Ok(cycle)
    }

    /// Shows what is known if a decision is due here.
    fn ask(&mut self, observation: &mut [f32]) -> Result<bool> {
        self.episodes.backend.ready()?;
        let start = Instant::now();
        let summary = self.episodes.backend.source_summary()?;
        self.asked = self.actions.asks(&summary);
        if self.asked {
            self.episodes.layout.write_sequence_into(&summary, observation);
        }
        self.looking = start.elapsed();
        Ok(self.asked)
    }
}

impl<B: CycleBackend> Env for SourceEnv<B> {
    fn observation_len(&self) -> usize {
        self.episodes.layout.len()
    }

    fn n_actions(&self) -> usize {
        self.actions.count()
    }

    fn reset(&mut self, observation: &mut [f32]) -> Result<()> {
        // Cycles without a choice go by.
        for _ in 0..MOST_UNASKED {
            if self.ask(observation)? {
                return Ok(());
            }
            let asking = self.looking;
            let mut cycle = self.drafted(None)?;
            cycle.add_policy_time(asking);
            let size = cycle.decide(|summary| self.episodes.counterpart.verification_size(summary));
            self.episodes.finish(cycle, size)?;
        }
        Err(Error::NothingToCopy { cycles: MOST_UNASKED })
    }

    fn step(&mut self, decision: Decision, _observation: &mut [f32]) -> Result<Step> {
        let Decision { action, elapsed } = decision;
        let count = self.n_actions();
        if action >= count {
            return Err(Error::UnknownAction { action, count });
        }
        if !std::mem::take(&mut self.asked) {
            return Err(Error::NoEpisode);
        }
        let elapsed = elapsed + self.looking;
        match self.actions.source(action) {
            source @ (DraftSource::Tree | DraftSource::Merged { .. }) => {
                let merges = source != DraftSource::Tree;
                let mut cycle = self.drafted(self.actions.merged.clone().filter(|_| merges))?;
                cycle.add_policy_time(elapsed);
                let size = cycle.decide(|summary| self.episodes.counterpart.verification_size(summary));
                self.episodes.finish(cycle, size)
            }
            DraftSource::Copy { chain } => {
                self.episodes.counterpart.begin_cycle();
                self.episodes.copy(chain, elapsed)
            }
        }
    }

    fn action_values(&mut self, _policy: &mut PolicyFn, _gamma: f32) -> Result<Option<Vec<f32>>> {
        if !self.asked {
            return Err(Error::NoEpisode);
        }
        let backend = &self.episodes.backend;
        let chains: Option<Vec<_>> =
            self.actions.chains.iter().map(|&chain| backend.foresee_copy(chain)).collect();
        // Where nothing is known in advance, a tree must not be begun either.
        let Some(chains) = chains else { return Ok(None) };
        let cycle = self.drafted(None)?;
        let size = self.episodes.counterpart.verification_size(&cycle.summary());
        let Some(tree) = self.episodes.worth(&cycle, size)? else { return Ok(None) };
        let mut values = vec![tree];
        values.extend(chains.iter().map(|outcome| self.episodes.reward.worth(outcome)));
        if let Some(merged) = &self.actions.merged {
            self.episodes.merged = Some(merged.clone());
            let Some(merged) = self.episodes.worth(&cycle, size)? else { return Ok(None) };
            values.push(merged);
        }
        Ok(Some(values))
    }

    fn lambda(&self) -> Option<f64> {
        self.episodes.reward.lambda()
    }

    fn state(&self) -> serde_json::Value {
        let state = State { asked: self.asked, episodes: self.episodes.state() };
        serde_json::to_value(state).expect("invariant: the state is plain data")
    }

    fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()> {
        let State { asked, episodes } = serde_json::from_value(state)?;
        self.episodes.restore(episodes, observation)?;
        self.asked = false;
        if asked {
            self.ask(observation)?;
        }
        Ok(())
    }
}
