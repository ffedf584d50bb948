//! When to stop drafting, as a decision process.

use ltd_cycle::{Controller, Cycle};
use ltd_policy::{CycleSummary, DepthActions, DepthRule, ObservationLayout};

use crate::backend::CycleBackend;
use crate::env::{Decision, Env, PolicyFn, Step};
use crate::episode::{Episodes, MOST_UNASKED};
use crate::reward::RewardMeter;
use crate::{Error, Result};

/// One episode is one cycle. Asked at the depths where both actions are possible; continuing pays
/// nothing, the end of drafting pays the cycle's reward. The counterpart chooses the size, and what
/// to draft from: cycles that copy go by.
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
        let size_limit = counterpart.size_limit();
        Self { episodes: Episodes::new(backend, counterpart, layout, reward, size_limit), actions }
    }

    /// Drafts until a decision is due or drafting is over, as it is where nothing is left to
    /// expand; says whether a decision is due.
    fn draft_to_decision(&mut self, cycle: &mut B::Cycle) -> Result<bool> {
        loop {
            if cycle.summary().frontier == 0 {
                return Ok(false);
            }
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
        // Cycles without a decision go by.
        for _ in 0..MOST_UNASKED {
            let mut cycle = self.episodes.begin()?;
            if self.draft_to_decision(&mut cycle)? {
                self.episodes.show(cycle, observation);
                return Ok(());
            }
            let size = cycle.decide(|summary| self.episodes.counterpart.verification_size(summary));
            self.episodes.finish(cycle, size)?;
        }
        Err(Error::NoDecision { cycles: MOST_UNASKED, min_depth: self.actions.min_depth })
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

    /// Drafts a copy of the cycle to its greatest depth, then goes back from there: one visit per
    /// decision.
    fn action_values(&mut self, policy: &mut PolicyFn, gamma: f32) -> Result<Option<Vec<f32>>> {
        let Some(mut cycle) = self.episodes.backend.duplicate(self.episodes.pending()?) else {
            return Ok(None);
        };
        let mut observation = vec![0.0; self.observation_len()];
        let mut stops = Vec::new();
        let mut later = Vec::new();
        loop {
            let size = self.episodes.counterpart.verification_size(&cycle.summary());
            let Some(stop) = self.episodes.worth(&cycle, size)? else { return Ok(None) };
            stops.push(stop);
            let CycleSummary { draft_depth, frontier, .. } = cycle.summary();
            if frontier == 0 || self.actions.rule_at(draft_depth) != DepthRule::Ask {
                break;
            }
            self.episodes.backend.expand(&mut cycle)?;
            if self.draft_to_decision(&mut cycle)? {
                self.episodes.layout.write_into(&cycle.summary(), &mut observation);
                later.push(policy(&observation)[DepthActions::CONTINUE]);
            }
        }
        Ok(Some(action_values(&stops, &later, gamma)))
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

/// Values of stopping and of continuing at the first of some decisions. `stops` are the rewards of
/// stopping at each of them and, last, where drafting ends by itself; `later` the probabilities
/// that the policy continues at each but the first.
fn action_values(stops: &[f32], later: &[f32], gamma: f32) -> Vec<f32> {
    let (last, decisions) = stops.split_last().expect("invariant: drafting ends somewhere");
    // Continuing at the last decision pays in the same step; each earlier one leads to a decision.
    let mut going_on = *last;
    for (stop, probability) in decisions[1..].iter().zip(later).rev() {
        going_on = gamma * ((1.0 - probability) * stop + probability * going_on);
    }
    let mut values = vec![0.0; DepthActions::COUNT];
    values[DepthActions::STOP] = decisions[0];
    values[DepthActions::CONTINUE] = going_on;
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_continuing_is_what_the_policy_makes_of_it() {
        // Stop now: 1. Continue: stop there for 2, or go on to the end for 4, each half the time
        // and a step later.
        let values = action_values(&[1.0, 2.0, 4.0], &[0.5], 0.5);
        assert_eq!(values[DepthActions::STOP], 1.0);
        assert_eq!(values[DepthActions::CONTINUE], 0.5 * (0.5 * 2.0 + 0.5 * 4.0));
        // Where continuing ends drafting, it pays at once.
        assert_eq!(action_values(&[1.0, 3.0], &[], 0.5)[DepthActions::CONTINUE], 3.0);
    }
}
