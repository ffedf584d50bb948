//! What all environments do alike: an episode is a cycle.

use std::time::{Duration, Instant};

use ltd_cycle::{Controller, Cycle, CycleOutcome};
use ltd_policy::{Calibration, DraftSource, Merged, ObservationLayout};
use serde::{Deserialize, Serialize};

use crate::backend::CycleBackend;
use crate::env::Step;
use crate::reward::RewardMeter;
use crate::{Error, Result};

/// Cycles in a row without a decision after which none is to be expected.
pub(crate) const MOST_UNASKED: usize = 1000;

/// Cycles one after another, with their counterpart, their reward, and the one under way.
pub(crate) struct Episodes<B: CycleBackend> {
    pub(crate) backend: B,
    pub(crate) counterpart: Box<dyn Controller>,
    pub(crate) layout: ObservationLayout,
    pub(crate) reward: RewardMeter,
    /// The largest size that a cycle may verify.
    size_limit: usize,
    cycle: Option<B::Cycle>,
    /// What the present cycle's tree is merged with, if it is.
    pub(crate) merged: Option<Merged>,
}

#[derive(Serialize, Deserialize)]
struct State {
    backend: serde_json::Value,
    counterpart: serde_json::Value,
    reward: RewardMeter,
    /// Depth of the cycle under way, if there is one.
    depth: Option<usize>,
    /// What it is merged with.
    #[serde(default)]
    merged: Option<Merged>,
}

/// Fails if a calibration, read from a saved state, is none.
pub(crate) fn check(calibration: &Calibration) -> Result<()> {
    match calibration.problem() {
        None => Ok(()),
        Some((field, problem)) => {
            let problem = format!("calibration.{field}: {problem}");
            Err(Error::State(serde::de::Error::custom(problem)))
        }
    }
}

impl<B: CycleBackend> Episodes<B> {
    pub(crate) fn new(
        backend: B,
        counterpart: Box<dyn Controller>,
        layout: ObservationLayout,
        reward: RewardMeter,
        size_limit: usize,
    ) -> Self {
        Self { backend, counterpart, layout, reward, size_limit, cycle: None, merged: None }
    }

    /// The next cycle with a tree. Where the counterpart copies, cycles go by.
    pub(crate) fn begin(&mut self) -> Result<B::Cycle> {
        for _ in 0..MOST_UNASKED {
            self.backend.ready()?;
            self.counterpart.begin_cycle();
            let start = Instant::now();
            let copies = self.counterpart.chooses_source();
            let (source, match_length) = if copies {
                let summary = self.backend.source_summary()?;
                (self.counterpart.source(&summary), summary.match_length)
            } else {
                (DraftSource::Tree, 0)
            };
            let choosing = if copies { start.elapsed() } else { Duration::ZERO };
            if let DraftSource::Copy { chain } = source {
                self.copy(chain, choosing)?;
                continue;
            }
            let mut cycle = self.begin_tree(None)?;
            cycle.add_policy_time(choosing);
            let mut chain = source.merged_chain();
            if match_length > 0 {
                let start = Instant::now();
                if let Some(agreement) = self.backend.agreement(&cycle)? {
                    chain = self.counterpart.merge_with(chain, agreement);
                }
                cycle.add_policy_time(start.elapsed());
            }
            self.merged = chain.map(|chain| self.merging(chain));
            return Ok(cycle);
        }
        Err(Error::NoTree { cycles: MOST_UNASKED })
    }

    /// How the counterpart merges trees with chains of so many tokens.
    fn merging(&self, chain: usize) -> Merged {
        Merged { chain, calibration: self.counterpart.calibration().into_owned() }
    }

    /// The next cycle, with a tree, which is merged with a chain if one is given, whatever the
    /// counterpart would draft from.
    pub(crate) fn begin_tree(&mut self, merged: Option<Merged>) -> Result<B::Cycle> {
        self.merged = merged;
        self.backend.begin(self.size_limit)
    }

    /// A whole cycle that copies, with the time that it took to choose that.
    pub(crate) fn copy(&mut self, chain: usize, elapsed: Duration) -> Result<Step> {
        let mut outcome = self.backend.copy(chain)?;
        if self.backend.has_clock() {
            outcome.timing.policy += elapsed;
        }
        Ok(self.pay(outcome))
    }

    /// Shows a cycle to the learner, on the cycle's clock, and waits for its decision.
    pub(crate) fn show(&mut self, mut cycle: B::Cycle, observation: &mut [f32]) {
        cycle.decide(|summary| self.layout.write_into(summary, observation));
        self.cycle = Some(cycle);
    }

    /// The cycle that waits for a decision, with the time that the decision took.
    pub(crate) fn take(&mut self, elapsed: Duration) -> Result<B::Cycle> {
        let mut cycle = self.cycle.take().ok_or(Error::NoEpisode)?;
        cycle.add_policy_time(elapsed);
        Ok(cycle)
    }

    /// The cycle that waits for a decision.
    pub(crate) fn pending(&self) -> Result<&B::Cycle> {
        self.cycle.as_ref().ok_or(Error::NoEpisode)
    }

    /// What verifying a cycle, or a copy of one, would pay, if that is known in advance.
    pub(crate) fn worth(&self, cycle: &B::Cycle, size: usize) -> Result<Option<f32>> {
        let outcome = match &self.merged {
            Some(Merged { chain, calibration }) => {
                self.backend.foresee_merge(cycle, size, *chain, calibration)?
            }
            None => self.backend.foresee(cycle, size),
        };
        Ok(outcome.map(|outcome| self.reward.worth(&outcome)))
    }

    /// Verifies and pays.
    pub(crate) fn finish(&mut self, cycle: B::Cycle, size: usize) -> Result<Step> {
        let outcome = match &self.merged {
            Some(Merged { chain, calibration }) => self.backend.merge(cycle, size, *chain, calibration)?,
            None => self.backend.verify(cycle, size)?,
        };
        Ok(self.pay(outcome))
    }

    fn pay(&mut self, outcome: CycleOutcome) -> Step {
        self.counterpart.observe(&outcome);
        let reward = self.reward.reward(&outcome);
        Step { reward, terminated: true, truncated: false, outcome: Some(outcome) }
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        let state = State {
            backend: self.backend.state(),
            counterpart: self.counterpart.state(),
            reward: self.reward.clone(),
            depth: self.cycle.as_ref().map(|cycle| cycle.summary().draft_depth),
            merged: self.merged.clone(),
        };
        serde_json::to_value(state).expect("invariant: the state is plain data")
    }

    pub(crate) fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()> {
        let state: State = serde_json::from_value(state)?;
        if let Some(merged) = &state.merged {
            check(&merged.calibration)?;
        }
        self.backend.restore(state.backend)?;
        self.counterpart.restore(&state.counterpart);
        self.reward = state.reward;
        (self.cycle, self.merged) = (None, state.merged);
        if let Some(depth) = state.depth {
            // The same tokens grow the same tree; only its time is measured anew.
            let mut cycle = self.backend.begin(self.size_limit)?;
            while cycle.summary().draft_depth < depth {
                self.backend.expand(&mut cycle)?;
            }
            self.show(cycle, observation);
        }
        Ok(())
    }
}
