//! Rollouts: the policy acts, with the evaluator that will serve it.

use std::collections::VecDeque;
use std::time::Instant;

use ltd_env::{Decision, Env, Step};
use ltd_policy::{Mlp, Scratch};
use ndarray::{Array1, Array2, Axis};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::actor_critic::ActorCritic;
use super::delivery::Widths;
use super::gae::advantages_and_returns;
use super::rollout_buffer::{EveryAction, RolloutBuffer};
use ltd_run::config::{Advantage, PpoConfig};

/// Episodes over which rewards and lengths are averaged for the curves, as in Stable-Baselines3.
const WINDOW: usize = 100;

/// The step that is due, and the latest finished episodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Episodes {
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

    /// Rewards and lengths of the latest episodes.
    pub(crate) fn latest(&self) -> impl Iterator<Item = (f64, usize)> {
        self.window.iter().copied()
    }
}

/// Steps as they come, before values and advantages are known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rollout {
    /// `[steps, observation]`, row-major.
    pub(crate) observations: Vec<f32>,
    /// `[steps, n_actions]`, row-major; empty unless advantages are exact.
    pub(crate) action_values: Vec<f32>,
    pub(crate) steps: Steps,
}

/// A rollout but for its tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Steps {
    actions: Vec<i64>,
    rewards: Vec<f32>,
    episode_starts: Vec<bool>,
    /// Steps that a limit cut, with the observation that would have come next.
    truncations: Vec<(usize, Vec<f32>)>,
}

impl Steps {
    pub(crate) fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether they are steps of a learner of these widths.
    pub(crate) fn fit(&self, widths: Widths) -> bool {
        let Self { actions, rewards, episode_starts, truncations } = self;
        let is_step = |(step, observation): &(usize, Vec<f32>)| {
            *step < actions.len() && observation.len() == widths.observation
        };
        let is_action = |action: &i64| (0..widths.n_actions as i64).contains(action);
        actions.len() == rewards.len()
            && actions.len() == episode_starts.len()
            && actions.iter().all(is_action)
            && truncations.iter().all(is_step)
    }
}

impl Rollout {
    /// Steps taken so far.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Takes one step. `observation` is the pending one, and holds the next pending one afterwards.
    pub(crate) fn step(
        &mut self,
        config: &PpoConfig,
        env: &mut dyn Env,
        actor: &mut Actor,
        observation: &mut [f32],
        episodes: &mut Episodes,
        random: &mut ChaCha8Rng,
    ) -> ltd_env::Result<Step> {
        let action_values = match config.advantage {
            Advantage::Sampled => Vec::new(),
            Advantage::Exact => {
                let mut policy = |observation: &[f32]| actor.probabilities(observation);
                let values = env.action_values(&mut policy, config.gamma as f32)?;
                values.ok_or(ltd_env::Error::OutcomesUnknown)?
            }
        };
        let start = Instant::now();
        let action = actor.sample(observation, random);
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
        self.action_values.extend(action_values);
        self.steps.actions.push(action as i64);
        self.steps.episode_starts.push(starts_episode);
        self.steps.rewards.push(step.reward);
        episodes.note(&step);
        Ok(step)
    }

    /// Adds values, log-probabilities and advantages: one batch for all steps, as the networks did
    /// not change.
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
        let (all_log_probs, values) =
            rayon::join(|| networks.log_probs(&self.observations), || networks.values(&self.observations));
        let n_actions = all_log_probs.len() / n_steps;
        let taken = all_log_probs.chunks_exact(n_actions).zip(&actions);
        let log_probs = taken.map(|(log_probs, &action)| log_probs[action as usize]).collect();
        let (advantages, returns, every_action) = match config.advantage {
            Advantage::Sampled => {
                let value = |observation| networks.values(observation)[0];
                let last_value = value(next_observation);
                for (step, observation) in &truncations {
                    // A limit is no end: what would have come is part of the reward.
                    rewards[*step] += config.gamma as f32 * value(observation);
                }
                let (gamma, gae_lambda) = (config.gamma as f32, config.gae_lambda as f32);
                let (advantages, returns) = advantages_and_returns(
                    &rewards,
                    &values,
                    &episode_starts,
                    last_value,
                    next_is_start,
                    gamma,
                    gae_lambda,
                );
                (Array1::from_vec(advantages), Array1::from_vec(returns), None)
            }
            Advantage::Exact => {
                let (returns, every) = exact(all_log_probs, self.action_values, n_steps);
                let taken = actions.iter().enumerate().map(|(step, &action)| (step, action as usize));
                (taken.map(|place| every.advantages[place]).collect(), returns, Some(every))
            }
        };
        RolloutBuffer {
            observations: Array2::from_shape_vec((n_steps, width), self.observations)
                .expect("invariant: each step has one observation"),
            actions: Array1::from_vec(actions),
            values: Array1::from_vec(values),
            log_probs: Array1::from_vec(log_probs),
            advantages,
            returns,
            every_action,
        }
    }
}

/// What each step is worth under the policy that acted, and each action's advantage over that; from
/// log-probabilities and values of all actions, `[n_steps, n_actions]`.
fn exact(log_probs: Vec<f32>, action_values: Vec<f32>, n_steps: usize) -> (Array1<f32>, EveryAction) {
    let shape = (n_steps, log_probs.len() / n_steps);
    let table = |values| Array2::from_shape_vec(shape, values).expect("invariant: each step has all actions");
    let (log_probs, action_values) = (table(log_probs), table(action_values));
    let values = (log_probs.mapv(f32::exp) * &action_values).sum_axis(Axis(1));
    let advantages = action_values - values.view().insert_axis(Axis(1));
    (values, EveryAction { log_probs, advantages })
}

/// A policy as it acts: with the evaluator that will serve it.
#[derive(Debug)]
pub(crate) struct Actor {
    mlp: Mlp,
    scratch: Scratch,
}

impl Actor {
    pub(crate) fn new(mlp: Mlp) -> Self {
        Self { scratch: mlp.scratch(), mlp }
    }

    /// An action drawn from the softmax of the logits.
    fn sample(&mut self, observation: &[f32], random: &mut ChaCha8Rng) -> usize {
        let logits = self.mlp.forward(observation, &mut self.scratch);
        let highest = highest(logits);
        let mut rest =
            random.random::<f64>() * logits.iter().map(|logit| weight(*logit, highest)).sum::<f64>();
        for (action, logit) in logits.iter().enumerate() {
            rest -= weight(*logit, highest);
            if rest < 0.0 {
                return action;
            }
        }
        logits.len() - 1
    }

    /// The softmax of the logits.
    fn probabilities(&mut self, observation: &[f32]) -> Vec<f32> {
        let logits = self.mlp.forward(observation, &mut self.scratch);
        let highest = highest(logits);
        let sum: f64 = logits.iter().map(|logit| weight(*logit, highest)).sum();
        logits.iter().map(|logit| (weight(*logit, highest) / sum) as f32).collect()
    }
}

fn highest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn weight(logit: f32, highest: f32) -> f64 {
    f64::from(logit - highest).exp()
}
