//! The interface between an environment and a learner.

use std::time::Duration;

use ltd_cycle::CycleOutcome;

use crate::Result;

/// An action and the time it took to choose it, which counts as part of the cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Index into the environment's actions.
    pub action: usize,
    /// Time from observation to action.
    pub elapsed: Duration,
}

/// What one step yields.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Reward of the action.
    pub reward: f32,
    /// The episode is over; call [`Env::reset`] before the next step.
    pub terminated: bool,
    /// The episode was cut by a limit that is no part of the decision process.
    pub truncated: bool,
    /// The cycle that ended with this step, if the environment runs cycles.
    pub outcome: Option<CycleOutcome>,
}

/// A policy to look ahead with: for an observation, the probability of each action.
pub type PolicyFn<'p> = dyn FnMut(&[f32]) -> Vec<f32> + 'p;

/// A Markov decision process with a vector of numbers to see and a finite set of actions.
pub trait Env {
    /// Length of an observation.
    fn observation_len(&self) -> usize;

    /// Number of actions.
    fn n_actions(&self) -> usize;

    /// Starts an episode and writes its first observation (`[observation_len]`).
    fn reset(&mut self, observation: &mut [f32]) -> Result<()>;

    /// Takes a decision. While the episode goes on, or when it was truncated, the next observation
    /// is written.
    fn step(&mut self, decision: Decision, observation: &mut [f32]) -> Result<Step>;

    /// What each action of the pending decision is worth (`[n_actions]`): the expected sum of the
    /// rewards that follow in this episode, discounted by `gamma` per step, if `policy` makes all
    /// later decisions. `None` where outcomes are not known in advance. The environment stays as it
    /// is.
    fn action_values(&mut self, _policy: &mut PolicyFn, _gamma: f32) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// The throughput that the reward `gain` compares cycles with, in tokens per second, where that
    /// is the reward.
    fn lambda(&self) -> Option<f64> {
        None
    }

    /// Everything that the future depends on, for a checkpoint: where the prompts stand, the
    /// sequence so far, the episode under way, random streams.
    fn state(&self) -> serde_json::Value;

    /// Returns to a saved state. If an episode was under way, its pending observation is written
    /// again.
    fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()>;
}
