//! Rollouts: the policy acts, with the evaluator that will serve it.

use std::collections::VecDeque;
use std::time::Instant;

use ltd_env::{Decision, Env, Step};
use ltd_policy::{Mlp, Scratch};
use ndarray::{Array1, Array2};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::actor_critic::ActorCritic;
use super::config::PpoConfig;
use super::gae::advantages_and_returns;
use super::rollout_buffer::RolloutBuffer;

/// Episodes over which rewards and lengths are averaged for the curves, as in Stable-Baselines3.
const WINDOW: usize = 100;

/// The step that is due, and the latest finished episodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Episodes {
    /// Reward of the episode under way.
    reward: f64,
    /// Its steps.
    len: usize,
    /// Rewards and lengths of the latest episodes.
    window: VecDeque<(f64, usize)>,
}

impl Episodes {
    fn note(&mut self, step: &Step) {
        self.reward += f64::from(step.reward);
        self.len += 1;
        if step.terminated || step.truncated {
            if self.window.len() == WINDOW {
                self.window.pop_front();
            }
            self.window.push_back((self.reward, self.len));
            (self.reward, self.len) = (0.0, 0);
        }
    }

    /// Whether the step that is due is the first of its episode.
    pub(crate) fn at_start(&self) -> bool {
        self.len == 0
    }

    /// Mean reward of the latest episodes, if there are any.
    pub fn mean_reward(&self) -> Option<f64> {
        self.mean(|(reward, _)| *reward)
    }

    /// Mean length of the latest episodes.
    pub fn mean_len(&self) -> Option<f64> {
        self.mean(|(_, len)| *len as f64)
    }

    fn mean(&self, value: impl Fn(&(f64, usize)) -> f64) -> Option<f64> {
        let count = self.window.len();
        (count > 0).then(|| self.window.iter().map(value).sum::<f64>() / count as f64)
    }
}

/// Steps as they come, before values and advantages are known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rollout {
    /// `[steps, observation]`, row-major.
    pub(crate) observations: Vec<f32>,
    pub(crate) steps: Steps,
}

/// A rollout but for its observations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Steps {
    actions: Vec<i64>,
    rewards: Vec<f32>,
    episode_starts: Vec<bool>,
    /// Steps that a limit cut, with the observation that would have come next.
    truncations: Vec<(usize, Vec<f32>)>,
}

impl Rollout {
    /// Steps taken so far.
    pub(crate) fn len(&self) -> usize {
        self.steps.actions.len()
    }

    /// Takes one step. `observation` is the pending one, and holds the next pending one afterwards.
    pub(crate) fn step(
        &mut self,
        env: &mut dyn Env,
        mlp: &Mlp,
        scratch: &mut Scratch,
        observation: &mut [f32],
        episodes: &mut Episodes,
        random: &mut ChaCha8Rng,
    ) -> ltd_env::Result<Step> {
        let start = Instant::now();
        let action = sample(mlp, observation, scratch, random);
        let elapsed = start.elapsed();
        let seen = observation.to_vec();
        let starts_episode = episodes.at_start();
        let step = env.step(Decision { action, elapsed }, observation)?;
        if step.truncated && !step.terminated {
            self.steps.truncations.push((self.len(), observation.to_vec()));
        }
        if step.terminated || step.truncated {
            env.reset(observation)?;
        }
        // Noted only now: a step that failed left nothing behind.
        self.observations.extend_from_slice(&seen);
        self.steps.actions.push(action as i64);
        self.steps.episode_starts.push(starts_episode);
        self.steps.rewards.push(step.reward);
        episodes.note(&step);
        Ok(step)
    }

    /// Adds values, log-probabilities and advantages: one batch for all steps, as the networks did not change.
    pub(crate) fn finish(
        self,
        config: &PpoConfig,
        networks: &ActorCritic,
        next_observation: &[f32],
        next_is_start: bool,
    ) -> RolloutBuffer {
        let Steps { actions, mut rewards, episode_starts, truncations } = self.steps;
        let n_steps = actions.len();
        let width = next_observation.len();
        let rows = |values: &[f32]| Tensor::from_slice(values).view([-1, width as i64]);
        let host = |tensor: Tensor| {
            Vec::<f32>::try_from(tensor.to_kind(Kind::Float)).expect("invariant: a vector of f32 on the CPU")
        };
        let (values, log_probs, last_value) = tch::no_grad(|| {
            let evaluation = networks.evaluate(&rows(&self.observations), &Tensor::from_slice(&actions));
            let last_value = host(networks.values(&rows(next_observation)))[0];
            for (step, observation) in &truncations {
                // A limit is no end: what would have come is part of the reward.
                rewards[*step] += config.gamma as f32 * host(networks.values(&rows(observation)))[0];
            }
            (host(evaluation.values), host(evaluation.log_probs), last_value)
        });
        let (advantages, returns) = advantages_and_returns(
            &rewards,
            &values,
            &episode_starts,
            last_value,
            next_is_start,
            config.gamma as f32,
            config.gae_lambda as f32,
        );
        RolloutBuffer {
            observations: Array2::from_shape_vec((n_steps, width), self.observations)
                .expect("invariant: each step has one observation"),
            actions: Array1::from_vec(actions),
            values: Array1::from_vec(values),
            log_probs: Array1::from_vec(log_probs),
            advantages: Array1::from_vec(advantages),
            returns: Array1::from_vec(returns),
        }
    }
}

/// An action drawn from the softmax of the logits.
fn sample(mlp: &Mlp, observation: &[f32], scratch: &mut Scratch, random: &mut ChaCha8Rng) -> usize {
    let logits = mlp.forward(observation, scratch);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| f64::from(logit - highest).exp();
    let mut rest = random.random::<f64>() * logits.iter().map(weight).sum::<f64>();
    for (action, logit) in logits.iter().enumerate() {
        rest -= weight(logit);
        if rest < 0.0 {
            return action;
        }
    }
    logits.len() - 1
}
