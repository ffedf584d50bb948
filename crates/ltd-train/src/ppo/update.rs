//! One PPO update: several epochs of minibatches over a rollout.

use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::actor_critic::{ActorCritic, Evaluation};
use super::adam::Adam;
use super::rollout_buffer::{EveryAction, Minibatch, RolloutBuffer};
use ltd_run::config::PpoConfig;

/// The parts of the loss of one minibatch, scalars.
#[derive(Debug)]
pub struct LossTerms {
    /// What is minimised: policy + `ent_coef` * entropy + `vf_coef` * value.
    pub total: Tensor,
    /// Clipped surrogate objective, negated.
    pub policy: Tensor,
    /// Mean squared error of the values.
    pub value: Tensor,
    /// Mean entropy, negated.
    pub entropy: Tensor,
    /// Estimate of the KL divergence from the policy that acted, `mean(ratio - 1 - log ratio)`.
    pub approx_kl: f64,
    /// Share of the steps whose ratio left the clip range.
    pub clip_fraction: f64,
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

/// The actions over which the objective is averaged: of each step the one taken, or all of them.
struct Chosen<'b> {
    /// Logarithm of the ratio of the probabilities now and when the policy acted; `[batch]`, or
    /// `[batch, n_actions]`.
    log_ratio: Tensor,
    /// The same shape.
    advantages: &'b Tensor,
    /// Probabilities when the policy acted, if all actions are there.
    probabilities: Option<Tensor>,
}

impl<'b> Chosen<'b> {
    fn taken(evaluation: &Evaluation, batch: &'b Minibatch) -> Self {
        let log_ratio = &evaluation.log_probs - &batch.log_probs;
        Self { log_ratio, advantages: &batch.advantages, probabilities: None }
    }

    fn all(evaluation: &Evaluation, every: &'b EveryAction<Tensor>) -> Self {
        let log_ratio = &evaluation.action_log_probs - &every.log_probs;
        Self { log_ratio, advantages: &every.advantages, probabilities: Some(every.log_probs.exp()) }
    }

    /// Mean over steps, and over the actions of each as the policy that acted chooses among them:
    /// what the mean over actions taken estimates.
    fn mean(&self, values: &Tensor) -> Tensor {
        match &self.probabilities {
            None => values.mean(Kind::Float),
            Some(probabilities) => (values * probabilities)
                .sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
                .mean(Kind::Float),
        }
    }

    /// Advantages in units of their deviation. The mean of all actions' advantages is 0 at every
    /// step by definition, and need not be taken off.
    fn normalised(&self) -> Tensor {
        let advantages = self.advantages;
        match self.probabilities {
            None if advantages.size()[0] > 1 => {
                (advantages - advantages.mean(Kind::Float)) / (advantages.std(true) + 1e-8)
            }
            None => advantages.shallow_clone(),
            Some(_) => advantages / (self.mean(&advantages.square()).sqrt() + 1e-8),
        }
    }
}

/// The loss of PPO (arXiv 1707.06347, equations 7 and 9).
pub fn ppo_loss(config: &PpoConfig, evaluation: &Evaluation, batch: &Minibatch) -> LossTerms {
    let chosen = match &batch.every_action {
        None => Chosen::taken(evaluation, batch),
        Some(every) => Chosen::all(evaluation, every),
    };
    let advantages =
        if config.normalize_advantage { chosen.normalised() } else { chosen.advantages.shallow_clone() };
    let log_ratio = &chosen.log_ratio;
    let ratio = log_ratio.exp();
    let clip = config.clip_range;
    let clipped = ratio.clamp(1.0 - clip, 1.0 + clip);
    let policy = -chosen.mean(&(&advantages * &ratio).minimum(&(&advantages * clipped)));
    let value = evaluation.values.mse_loss(&batch.returns, tch::Reduction::Mean);
    let entropy = -evaluation.entropy.mean(Kind::Float);
    let (approx_kl, clip_fraction) = tch::no_grad(|| {
        let kl = chosen.mean(&((&ratio - 1.0) - log_ratio)).double_value(&[]);
        let outside = chosen.mean(&(&ratio - 1.0).abs().gt(clip).to_kind(Kind::Float));
        (kl, outside.double_value(&[]))
    });
    LossTerms {
        total: &policy + &entropy * config.ent_coef + &value * config.vf_coef,
        policy,
        value,
        entropy,
        approx_kl,
        clip_fraction,
    }
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

/// Improves the networks on a rollout; `orders` gives the order of its steps in each epoch. Nothing
/// if `interrupted` says so between two minibatches: then the networks and the optimiser are
/// somewhere on the way.
pub fn update(
    config: &PpoConfig,
    networks: &ActorCritic,
    adam: &mut Adam,
    buffer: &RolloutBuffer,
    learning_rate: f64,
    mut orders: impl FnMut() -> Vec<usize>,
    interrupted: &dyn Fn() -> bool,
) -> Option<UpdateStats> {
    let parameters = networks.parameters();
    let steps = buffer.tensors();
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
            let batch = steps.select(rows);
            let terms = ppo_loss(config, &networks.evaluate(&batch.observations, &batch.actions), &batch);
            means.note(&terms);
            divergences.push(terms.approx_kl);
            stats.loss = terms.total.double_value(&[]);
            stats.approx_kl = divergences.iter().sum::<f64>() / divergences.len() as f64;
            if config.target_kl.is_some_and(|target| terms.approx_kl > 1.5 * target) {
                break 'epochs;
            }
            for parameter in &parameters {
                parameter.shallow_clone().zero_grad();
            }
            terms.total.backward();
            means.grad_norm += clip_grad_norm(&parameters, config.max_grad_norm);
            means.steps += 1;
            adam.step(&parameters, learning_rate);
        }
    }
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

impl Means {
    fn note(&mut self, terms: &LossTerms) {
        self.minibatches += 1;
        self.clip_fraction += terms.clip_fraction;
        self.entropy_loss += terms.entropy.double_value(&[]);
        self.policy_gradient_loss += terms.policy.double_value(&[]);
        self.value_loss += terms.value.double_value(&[]);
    }
}

/// Scales all gradients so that their common norm is at most `max_norm`; returns the norm before.
fn clip_grad_norm(parameters: &[Tensor], max_norm: f64) -> f64 {
    tch::no_grad(|| {
        let squares: f64 = parameters
            .iter()
            .map(|parameter| parameter.grad().square().sum(Kind::Double).double_value(&[]))
            .sum();
        let norm = squares.sqrt();
        let scale = max_norm / (norm + 1e-6);
        if scale < 1.0 {
            for parameter in parameters {
                let _ = parameter.grad().g_mul_scalar_(scale);
            }
        }
        norm
    })
}

/// A random order of a rollout's steps per call.
pub(crate) fn random_orders<'a>(
    buffer: &'a RolloutBuffer,
    random: &'a mut ChaCha8Rng,
) -> impl FnMut() -> Vec<usize> + 'a {
    || buffer.shuffled(random)
}
