//! One environment of a learner: where it stands, and its part of the rollout.

use ltd_engine::CycleStats;
use ltd_env::{Env, Step, stream};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::collect::{Actor, Episodes, Rollout, Steps};
use ltd_run::config::PpoConfig;

/// What takes steps in one environment.
#[derive(Debug, Clone)]
pub(crate) struct Collector {
    actions: ChaCha8Rng,
    pub(super) episodes: Episodes,
    /// The observation that is due.
    pub(super) observation: Vec<f32>,
    /// The part under way: an interruption may come in the middle of it.
    pub(super) rollout: Rollout,
    begun: bool,
    /// Cycles of the part under way.
    pub(super) cycles: CycleStats,
}

/// All that a collector's future depends on, but for tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CollectorState {
    pub(super) episodes: Episodes,
    pub(super) rollout: Steps,
    begun: bool,
    cycles: CycleStats,
    /// Position of the random stream (128-bit, hence text).
    actions: String,
}

/// What comes of a full part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(super) rollout: Rollout,
    /// The observation that would come next.
    pub(super) next_observation: Vec<f32>,
    /// Its cycles.
    pub(crate) cycles: CycleStats,
    /// Where the collector stands afterwards.
    pub(crate) state: CollectorState,
}

impl Collector {
    /// For the environment `number` of a run's learner `name`; each has a random stream of its own.
    pub(super) fn new(observation_len: usize, seed: u64, name: &str, number: usize) -> Self {
        let purpose = match number {
            0 => format!("{name} actions"),
            _ => format!("{name} actions {number}"),
        };
        Self {
            actions: stream(seed, &purpose),
            episodes: Episodes::default(),
            observation: vec![0.0; observation_len],
            rollout: Rollout::default(),
            begun: false,
            cycles: CycleStats::default(),
        }
    }

    /// Takes steps until the part has `n_steps`, or until `interrupted` says so after a step: then
    /// it has fewer, and the next call goes on. `observer` sees each step.
    pub(super) fn fill(
        &mut self,
        config: &PpoConfig,
        n_steps: usize,
        env: &mut dyn Env,
        actor: &mut Actor,
        observer: &mut dyn FnMut(&Step),
        interrupted: &dyn Fn() -> bool,
    ) -> ltd_env::Result<bool> {
        if !self.begun {
            env.reset(&mut self.observation)?;
            self.begun = true;
        }
        let Self { observation, episodes, actions, rollout, cycles, .. } = self;
        while rollout.len() < n_steps {
            let step = rollout.step(config, env, actor, observation, episodes, actions)?;
            if let Some(outcome) = &step.outcome {
                cycles.add(outcome);
            }
            observer(&step);
            if interrupted() && rollout.len() < n_steps {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands the part over.
    pub(super) fn report(&mut self) -> Report {
        let (rollout, cycles) = (std::mem::take(&mut self.rollout), std::mem::take(&mut self.cycles));
        Report { rollout, next_observation: self.observation.clone(), cycles, state: self.state() }
    }

    /// Where it stands, but for the tables of the part under way.
    pub(super) fn state(&self) -> CollectorState {
        CollectorState {
            episodes: self.episodes.clone(),
            rollout: self.rollout.steps.clone(),
            begun: self.begun,
            cycles: self.cycles.clone(),
            actions: self.actions.get_word_pos().to_string(),
        }
    }

    /// Returns to a state; says what does not fit.
    pub(super) fn restore(
        &mut self,
        state: CollectorState,
        observations: Vec<f32>,
        action_values: Vec<f32>,
    ) -> Result<(), String> {
        let CollectorState { episodes, rollout, begun, cycles, actions } = state;
        let position = actions.parse().map_err(|_| format!("`{actions}` is not a stream position"))?;
        self.actions.set_word_pos(position);
        self.rollout = Rollout { observations, action_values, steps: rollout };
        (self.episodes, self.begun, self.cycles) = (episodes, begun, cycles);
        Ok(())
    }
}
