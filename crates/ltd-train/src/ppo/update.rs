//! One PPO update: several epochs of minibatches over a rollout.

use std::borrow::Cow;
use std::ops::Range;

use ltd_run::config::PpoConfig;
use ndarray::{Array, Dimension};
use rand_chacha::ChaCha8Rng;

use super::actor_critic::{ActorCritic, log_softmax};
use super::adam::Adam;
use super::perceptron::{Gradient, Perceptron};
use super::rollout_buffer::RolloutBuffer;

/// The loss of one minibatch.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// What is minimised: policy + `ent_coef` * entropy + `vf_coef` * value.
    pub total: f64,
    /// Clipped surrogate objective, negated.
    pub policy: f64,
    /// Mean squared error of the values.
    pub value: f64,
    /// Mean entropy, negated.
    pub entropy: f64,
    /// Estimate of the KL divergence from the policy that acted, `mean(ratio - 1 - log ratio)`.
    pub approx_kl: f64,
    /// Share of the steps whose ratio left the clip range.
    pub clip_fraction: f64,
    /// Gradient of `total` with respect to the policy's parameters, in the order of
    /// [`ActorCritic::named_parameters`].
    pub policy_gradient: Vec<f32>,
    /// The same of the value function's.
    pub value_gradient: Vec<f32>,
}

/// What an update did, with Stable-Baselines3's meanings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateStats {
    /// KL estimate, mean of the last epoch.
    pub approx_kl: f64,
    /// Clipped share, mean of all minibatches.
    pub clip_fraction: f64,
    /// Negated entropy, mean.
    pub entropy_loss: f64,
    /// Policy loss, mean.
    pub policy_gradient_loss: f64,
    /// Value loss, mean.
    pub value_loss: f64,
    /// Loss of the last minibatch.
    pub loss: f64,
    /// Gradient norm before clipping, mean.
    pub grad_norm: f64,
    /// Explained variance of the values that acted.
    pub explained_variance: f64,
    /// Step size.
    pub learning_rate: f64,
    /// Epochs made (fewer than configured if the KL limit ended the update).
    pub epochs: usize,
}

/// Sums over the steps of a minibatch.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    policy: f64,
    value: f64,
    entropy: f64,
    approx_kl: f64,
    outside: f64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.policy += other.policy;
        self.value += other.value;
        self.entropy += other.entropy;
        self.approx_kl += other.approx_kl;
        self.outside += other.outside;
    }
}

impl Sums {
    /// Means over `count` steps, without gradients.
    fn loss(self, config: &PpoConfig, count: usize) -> Loss {
        let mean = |sum: f64| sum / count as f64;
        let (policy, value, entropy) = (mean(self.policy), mean(self.value), mean(self.entropy));
        Loss {
            total: policy + entropy * config.ent_coef + value * config.vf_coef,
            policy,
            value,
            entropy,
            approx_kl: mean(self.approx_kl),
            clip_fraction: mean(self.outside),
            policy_gradient: Vec::new(),
            value_gradient: Vec::new(),
        }
    }
}

/// A rollout as it is learned from. The objective is averaged over `width` actions of each step:
/// the one taken, or all of them. Tables are `[steps, width]`, row-major.
struct Steps<'b> {
    config: &'b PpoConfig,
    buffer: &'b RolloutBuffer,
    /// `[steps, observation]`.
    observations: Cow<'b, [f32]>,
    width: usize,
    /// Log-probabilities when the policy acted.
    log_probs: Cow<'b, [f32]>,
    advantages: Cow<'b, [f32]>,
    /// What an action counts for in the mean over those of a step: as the policy that acted chooses
    /// among all of them, which is what the mean over actions taken estimates.
    weights: Vec<f32>,
}

/// How advantages are measured: from `mean`, in units of `deviation`.
#[derive(Debug, Clone, Copy)]
struct Scale {
    mean: f32,
    deviation: f32,
}

/// The actions of one step over which the objective is averaged.
struct Chosen<'s> {
    /// Which these are of all actions.
    actions: Range<usize>,
    log_probs: &'s [f32],
    advantages: &'s [f32],
    weights: &'s [f32],
}

impl<'b> Steps<'b> {
    fn of(config: &'b PpoConfig, buffer: &'b RolloutBuffer) -> Self {
        let (log_probs, advantages) = match &buffer.every_action {
            None => (row_major(&buffer.log_probs), row_major(&buffer.advantages)),
            Some(every) => (row_major(&every.log_probs), row_major(&every.advantages)),
        };
        let every = buffer.every_action.is_some();
        let weight = |log_prob: &f32| if every { log_prob.exp() } else { 1.0 };
        Self {
            config,
            buffer,
            observations: row_major(&buffer.observations),
            width: log_probs.len() / buffer.len(),
            weights: log_probs.iter().map(weight).collect(),
            log_probs,
            advantages,
        }
    }

    fn chosen(&self, step: usize) -> Chosen<'_> {
        let first = if self.buffer.every_action.is_some() { 0 } else { self.buffer.actions[step] as usize };
        let places = step * self.width..(step + 1) * self.width;
        Chosen {
            actions: first..first + self.width,
            log_probs: &self.log_probs[places.clone()],
            advantages: &self.advantages[places.clone()],
            weights: &self.weights[places],
        }
    }

    /// The scale of a minibatch's advantages. The mean of all actions' advantages is 0 at every
    /// step by definition, and need not be taken off.
    fn scale(&self, rows: &[usize]) -> Scale {
        let every = self.buffer.every_action.is_some();
        if !self.config.normalize_advantage || (rows.len() == 1 && !every) {
            return Scale { mean: 0.0, deviation: 1.0 };
        }
        let count = rows.len() as f64;
        let taken = || rows.iter().map(|&step| f64::from(self.buffer.advantages[step]));
        let mean = if every { 0.0 } else { taken().sum::<f64>() / count };
        let squares = rows.iter().map(|&step| {
            let Chosen { advantages, weights, .. } = self.chosen(step);
            let square = |(&advantage, &weight)| f64::from(weight) * (f64::from(advantage) - mean).powi(2);
            advantages.iter().zip(weights).map(square).sum::<f64>()
        });
        let variance = squares.sum::<f64>() / if every { count } else { count - 1.0 };
        Scale { mean: mean as f32, deviation: (variance.sqrt() + 1e-8) as f32 }
    }

    /// Gradient of a minibatch's loss with respect to the policy; returns what the loss sums up,
    /// and the gradient's squared norm.
    fn policy_gradient(
        &self,
        policy: &Perceptron,
        gradient: &mut Gradient<Sums>,
        rows: &[usize],
    ) -> (Sums, f64) {
        let (scale, share) = (self.scale(rows), 1.0 / rows.len() as f32);
        gradient.compute(policy, &self.observations, rows, |steps, logits, delta| {
            self.policy_terms(scale, share, steps, logits, delta)
        })
    }

    /// The same with respect to the value function.
    fn value_gradient(
        &self,
        value: &Perceptron,
        gradient: &mut Gradient<Sums>,
        rows: &[usize],
    ) -> (Sums, f64) {
        let share = 1.0 / rows.len() as f32;
        gradient.compute(value, &self.observations, rows, |steps, values, delta| {
            self.value_terms(share, steps, values, delta)
        })
    }

    /// The policy's part of the loss of some steps (arXiv 1707.06347, equations 7 and 9), `share`
    /// being that of one step in the minibatch. Logits become log-probabilities; `delta` becomes
    /// the gradient with respect to the logits.
    fn policy_terms(
        &self,
        scale: Scale,
        share: f32,
        steps: &[usize],
        logits: &mut [f32],
        delta: &mut [f32],
    ) -> Sums {
        let n_actions = logits.len() / steps.len();
        let clip = self.config.clip_range;
        let (lowest, highest) = ((1.0 - clip) as f32, (1.0 + clip) as f32);
        let entropy_share = self.config.ent_coef as f32 * share;
        let mut probabilities = vec![0.0; n_actions];
        let mut sums = Sums::default();
        let rows = logits.chunks_exact_mut(n_actions).zip(delta.chunks_exact_mut(n_actions));
        for (&step, (log_probs, delta)) in steps.iter().zip(rows) {
            log_softmax(log_probs);
            // First with respect to the log-probabilities.
            let mut total = 0.0;
            let chosen = self.chosen(step);
            let now = log_probs[chosen.actions.clone()].iter().zip(&mut delta[chosen.actions]);
            let then = chosen.log_probs.iter().zip(chosen.advantages).zip(chosen.weights);
            for ((now, delta), ((then, advantage), &weight)) in now.zip(then) {
                let advantage = (advantage - scale.mean) / scale.deviation;
                let log_ratio = now - then;
                let ratio = log_ratio.exp();
                let (free, clipped) = (advantage * ratio, advantage * ratio.clamp(lowest, highest));
                // Where the clipped one is less, it is a constant.
                let constant = free > clipped;
                if !constant {
                    *delta = -share * weight * free;
                    total += *delta;
                }
                let weight = f64::from(weight);
                sums.policy -= weight * f64::from(free.min(clipped));
                sums.approx_kl += weight * f64::from((ratio - 1.0) - log_ratio);
                sums.outside += if f64::from((ratio - 1.0).abs()) > clip { weight } else { 0.0 };
            }
            let mut entropy = 0.0;
            for (probability, log_prob) in probabilities.iter_mut().zip(&*log_probs) {
                *probability = log_prob.exp();
                entropy -= *probability * log_prob;
            }
            sums.entropy -= f64::from(entropy);
            for ((delta, probability), log_prob) in delta.iter_mut().zip(&probabilities).zip(&*log_probs) {
                *delta += probability * (entropy_share * (log_prob + entropy) - total);
            }
        }
        sums
    }

    /// The value function's part, alike.
    fn value_terms(&self, share: f32, steps: &[usize], values: &[f32], delta: &mut [f32]) -> Sums {
        let factor = 2.0 * self.config.vf_coef as f32 * share;
        let mut sums = Sums::default();
        for ((&step, value), delta) in steps.iter().zip(values).zip(delta) {
            let error = value - self.buffer.returns[step];
            *delta = factor * error;
            sums.value += f64::from(error).powi(2);
        }
        sums
    }
}

fn row_major<D: Dimension>(table: &Array<f32, D>) -> Cow<'_, [f32]> {
    table.as_slice().map_or_else(|| table.iter().copied().collect(), Cow::Borrowed)
}

/// The loss of PPO over the steps `rows` of a rollout (arXiv 1707.06347, equations 7 and 9), and
/// its gradient.
pub fn ppo_loss(config: &PpoConfig, networks: &ActorCritic, buffer: &RolloutBuffer, rows: &[usize]) -> Loss {
    let steps = Steps::of(config, buffer);
    let (mut policy, mut value) = (Gradient::default(), Gradient::default());
    let (mut sums, _) = steps.policy_gradient(&networks.policy, &mut policy, rows);
    sums += steps.value_gradient(&networks.value, &mut value, rows).0;
    Loss {
        policy_gradient: policy.values().to_vec(),
        value_gradient: value.values().to_vec(),
        ..sums.loss(config, rows.len())
    }
}

/// Improves the networks on a rollout; `orders` gives the order of its steps in each epoch. Nothing
/// if `interrupted` says so between two minibatches: then the networks and the optimiser are
/// somewhere on the way.
pub fn update(
    config: &PpoConfig,
    networks: &mut ActorCritic,
    adam: &mut Adam,
    buffer: &RolloutBuffer,
    learning_rate: f64,
    mut orders: impl FnMut() -> Vec<usize> + Send,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Option<UpdateStats> {
    // All of it by a thread of the pool: to hand each minibatch over takes as long as a minibatch.
    rayon::scope(|_| update_here(config, networks, adam, buffer, learning_rate, &mut orders, interrupted))
}

fn update_here(
    config: &PpoConfig,
    networks: &mut ActorCritic,
    adam: &mut Adam,
    buffer: &RolloutBuffer,
    learning_rate: f64,
    orders: &mut dyn FnMut() -> Vec<usize>,
    interrupted: &dyn Fn() -> bool,
) -> Option<UpdateStats> {
    let steps = Steps::of(config, buffer);
    let (mut policy, mut value) = (Gradient::default(), Gradient::default());
    // The step of the minibatch before: made by the threads that compute the next gradients.
    let mut due = None;
    let mut means = Means::default();
    let mut stats =
        UpdateStats { learning_rate, explained_variance: buffer.explained_variance(), ..Default::default() };
    'epochs: for _ in 0..config.n_epochs {
        stats.epochs += 1;
        let mut divergences = Vec::new();
        for rows in orders().chunks(config.batch_size) {
            if interrupted() {
                return None;
            }
            let step = due.take();
            let ((mut sums, policy_squares), (value_sums, value_squares)) = rayon::join(
                || {
                    adam.policy.step(step, &mut networks.policy, &policy);
                    steps.policy_gradient(&networks.policy, &mut policy, rows)
                },
                || {
                    adam.value.step(step, &mut networks.value, &value);
                    steps.value_gradient(&networks.value, &mut value, rows)
                },
            );
            sums += value_sums;
            let loss = sums.loss(config, rows.len());
            means.note(&loss);
            divergences.push(loss.approx_kl);
            stats.loss = loss.total;
            stats.approx_kl = divergences.iter().sum::<f64>() / divergences.len() as f64;
            if config.target_kl.is_some_and(|target| loss.approx_kl > 1.5 * target) {
                break 'epochs;
            }
            let norm = (policy_squares + value_squares).sqrt();
            means.grad_norm += norm;
            means.steps += 1;
            due = Some(adam.next_step(learning_rate, gradient_scale(norm, config.max_grad_norm)));
        }
    }
    adam.policy.step(due, &mut networks.policy, &policy);
    adam.value.step(due, &mut networks.value, &value);
    let mean = |sum: f64| sum / means.minibatches as f64;
    Some(UpdateStats {
        clip_fraction: mean(means.clip_fraction),
        entropy_loss: mean(means.entropy_loss),
        policy_gradient_loss: mean(means.policy_gradient_loss),
        value_loss: mean(means.value_loss),
        grad_norm: means.grad_norm / means.steps.max(1) as f64,
        ..stats
    })
}

/// What all gradients are multiplied with so that their common norm is at most `max_norm`.
fn gradient_scale(norm: f64, max_norm: f64) -> f64 {
    let scale = max_norm / (norm + 1e-6);
    // No number stays none.
    if scale > 1.0 { 1.0 } else { scale }
}

/// Sums over the minibatches of an update.
#[derive(Default)]
struct Means {
    minibatches: usize,
    clip_fraction: f64,
    entropy_loss: f64,
    policy_gradient_loss: f64,
    value_loss: f64,
    steps: usize,
    grad_norm: f64,
}

impl Means {
    fn note(&mut self, loss: &Loss) {
        self.minibatches += 1;
        self.clip_fraction += loss.clip_fraction;
        self.entropy_loss += loss.entropy;
        self.policy_gradient_loss += loss.policy;
        self.value_loss += loss.value;
    }
}

/// A random order of a rollout's steps per call.
pub(crate) fn random_orders<'a>(
    buffer: &'a RolloutBuffer,
    random: &'a mut ChaCha8Rng,
) -> impl FnMut() -> Vec<usize> + 'a {
    || buffer.shuffled(random)
}
