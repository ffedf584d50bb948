//! A trivial environment for tests of learners.

use serde::{Deserialize, Serialize};

use crate::env::{Decision, Env, Step};
use crate::random::stream;
use crate::{Error, Result};

/// Shows a one-hot vector; the right action is its index. Deterministic, resumable; optimal reward 1 per step.
/// (Stable-Baselines3's environment of the same name.)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdentityEnv {
    size: usize,
    episode_len: usize,
    seed: u64,
    shown: u64,
    in_episode: usize,
}

impl IdentityEnv {
    /// `size` observations and actions, episodes of `episode_len` steps.
    pub fn new(size: usize, episode_len: usize, seed: u64) -> Self {
        Self { size, episode_len, seed, shown: 0, in_episode: 0 }
    }

    fn state_index(&self) -> usize {
        use rand::Rng;
        stream(self.seed, &format!("identity {}", self.shown)).random_range(0..self.size)
    }

    fn show(&self, observation: &mut [f32]) {
        observation.fill(0.0);
        observation[self.state_index()] = 1.0;
    }
}

impl Env for IdentityEnv {
    fn observation_len(&self) -> usize {
        self.size
    }

    fn n_actions(&self) -> usize {
        self.size
    }

    fn reset(&mut self, observation: &mut [f32]) -> Result<()> {
        self.in_episode = 0;
        self.show(observation);
        Ok(())
    }

    fn step(&mut self, decision: Decision, observation: &mut [f32]) -> Result<Step> {
        if decision.action >= self.size {
            return Err(Error::UnknownAction { action: decision.action, count: self.size });
        }
        let reward = if decision.action == self.state_index() { 1.0 } else { 0.0 };
        self.shown += 1;
        self.in_episode += 1;
        self.show(observation);
        let terminated = self.in_episode == self.episode_len;
        Ok(Step { reward, terminated, truncated: false, outcome: None })
    }

    fn state(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("invariant: the state is plain data")
    }

    fn restore(&mut self, state: serde_json::Value, observation: &mut [f32]) -> Result<()> {
        *self = serde_json::from_value(state)?;
        self.show(observation);
        Ok(())
    }
}
