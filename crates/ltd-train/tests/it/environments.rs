//! Environments for tests of learners.

use ltd_env::{Decision, Env, Error, PolicyFn, Result, Step, stream};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Shows a one-hot vector; the right action is its index. Deterministic, resumable; optimal reward
/// 1 per step. (Stable-Baselines3's environment of the same name.)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IdentityEnv {
    size: usize,
    episode_len: usize,
    seed: u64,
    shown: u64,
    in_episode: usize,
}

impl IdentityEnv {
    /// `size` observations and actions, episodes of `episode_len` steps.
    pub(crate) fn new(size: usize, episode_len: usize, seed: u64) -> Self {
        Self { size, episode_len, seed, shown: 0, in_episode: 0 }
    }

    fn state_index(&self) -> usize {
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

/// A bandit shaped like the size problem: "scores" of a tree as observation, a dozen sizes as
/// actions, noisy reward with its peak at a size that depends on how fast the scores fall. One
/// decision per episode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContextualBandit {
    seed: u64,
    shown: u64,
}

impl ContextualBandit {
    const SCORES: usize = 40;
    const SIZES: usize = 12;
    const NOISE: f64 = 0.5;

    /// A bandit whose contexts and noise come from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, shown: 0 }
    }

    /// How fast scores fall, and the noise of the reward, of the context shown.
    fn context(&self) -> (f64, f64) {
        let mut random = stream(self.seed, &format!("bandit {}", self.shown));
        (random.random(), random.random_range(-Self::NOISE..Self::NOISE))
    }

    /// Expected reward: the peak moves from the smallest to the largest size as scores fall more
    /// slowly.
    fn expected(slope: f64, action: usize) -> f64 {
        let best = (1.0 - slope) * (Self::SIZES - 1) as f64;
        1.0 - ((action as f64 - best) / 4.0).powi(2)
    }

    fn mean_over_contexts(value: impl Fn(f64) -> f64) -> f64 {
        const CONTEXTS: usize = 2_000;
        (0..CONTEXTS).map(|index| value((index as f64 + 0.5) / CONTEXTS as f64)).sum::<f64>()
            / CONTEXTS as f64
    }

    /// Mean reward of always taking one action.
    pub(crate) fn mean_reward_of_constant(action: usize) -> f64 {
        Self::mean_over_contexts(|slope| Self::expected(slope, action))
    }

    /// Mean reward of the best action in each context.
    pub(crate) fn mean_reward_of_optimum() -> f64 {
        let best =
            |slope| (0..Self::SIZES).map(|action| Self::expected(slope, action)).fold(f64::MIN, f64::max);
        Self::mean_over_contexts(best)
    }

    fn show(&self, observation: &mut [f32]) {
        let (slope, _) = self.context();
        for (rank, score) in observation.iter_mut().enumerate() {
            *score = (-(0.2 + slope) * (1.0 + rank as f64).ln()) as f32;
        }
    }
}

impl Env for ContextualBandit {
    fn observation_len(&self) -> usize {
        Self::SCORES
    }

    fn n_actions(&self) -> usize {
        Self::SIZES
    }

    fn reset(&mut self, observation: &mut [f32]) -> Result<()> {
        self.show(observation);
        Ok(())
    }

    fn action_values(&mut self, _policy: &mut PolicyFn, _gamma: f32) -> Result<Option<Vec<f32>>> {
        let (slope, noise) = self.context();
        let values = (0..Self::SIZES).map(|action| (Self::expected(slope, action) + noise) as f32);
        Ok(Some(values.collect()))
    }

    fn step(&mut self, decision: Decision, _observation: &mut [f32]) -> Result<Step> {
        if decision.action >= Self::SIZES {
            return Err(Error::UnknownAction { action: decision.action, count: Self::SIZES });
        }
        let (slope, noise) = self.context();
        self.shown += 1;
        let reward = (Self::expected(slope, decision.action) + noise) as f32;
        Ok(Step { reward, terminated: true, truncated: false, outcome: None })
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
