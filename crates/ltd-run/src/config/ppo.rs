//! Hyper-parameters, with Stable-Baselines3's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounds::within;
use super::limits::hidden_layers;
use super::{Problems, limits};

/// Hidden layers of the two networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetArch {
    /// Widths of the policy's hidden layers.
    #[schemars(transform = hidden_layers)]
    pub pi: Vec<usize>,
    /// Widths of the value function's hidden layers.
    #[schemars(transform = hidden_layers)]
    pub vf: Vec<usize>,
}

/// Where advantages come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// From the action that was taken, by generalised advantage estimation.
    #[default]
    Sampled,
    /// From all actions, whose outcomes recorded cycles tell: the objective's expectation over
    /// actions is taken exactly. Same optimum, less variance.
    Exact,
}

/// What a configuration of before there were several means.
fn one() -> usize {
    1
}

/// How one policy learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// Steps per rollout of each rank, all its environments together.
    #[schemars(transform = within(limits::ROLLOUTS))]
    pub n_steps: usize,
    /// Environments that take them side by side, one per core at best, on recorded cycles; must
    /// divide `n_steps`. Live cycles have one environment: they are timed.
    #[serde(default = "one")]
    #[schemars(transform = within(limits::ENVIRONMENTS))]
    pub n_envs: usize,
    /// Steps per gradient step; must divide `n_steps`.
    #[schemars(transform = within(limits::ROLLOUTS))]
    pub batch_size: usize,
    /// Passes over each rollout.
    #[schemars(transform = within(limits::EPOCHS))]
    pub n_epochs: usize,
    /// Discount per step.
    #[schemars(transform = within(limits::SHARES))]
    pub gamma: f64,
    /// Bias-variance trade-off of the advantages (arXiv 1506.02438); 1 is Monte Carlo, 0 is
    /// one-step.
    #[schemars(transform = within(limits::SHARES))]
    pub gae_lambda: f64,
    /// How far a probability ratio may move before its gradient is cut.
    #[schemars(transform = within(limits::POSITIVE_FACTORS))]
    pub clip_range: f64,
    /// Weight of the entropy bonus.
    #[schemars(transform = within(limits::FACTORS))]
    pub ent_coef: f64,
    /// Weight of the value loss.
    #[schemars(transform = within(limits::FACTORS))]
    pub vf_coef: f64,
    /// Largest norm of the gradient over all parameters.
    #[schemars(transform = within(limits::POSITIVE_FACTORS))]
    pub max_grad_norm: f64,
    /// Ends an update early when the policy moved this far (KL divergence, times 1.5); null never
    /// does.
    #[schemars(transform = within(limits::POSITIVE_FACTORS))]
    pub target_kl: Option<f64>,
    /// Where advantages come from; `exact` needs `replay`.
    pub advantage: Advantage,
    /// Whether advantages are standardised in each minibatch.
    pub normalize_advantage: bool,
    /// Highest step size of Adam.
    #[schemars(transform = within(limits::LEARNING_RATES))]
    pub learning_rate: f64,
    /// Share of the stage over which the step size rises from 0 to `learning_rate`.
    #[schemars(transform = within(limits::WARM_UPS))]
    pub warmup_fraction: f64,
    /// Whether the step size falls linearly to 0 after the warm-up; else it stays.
    pub linear_decay: bool,
    /// Adam's epsilon.
    #[schemars(transform = within(limits::LEARNING_RATES))]
    pub adam_eps: f64,
    /// Hidden layers.
    pub net_arch: NetArch,
}

impl Default for PpoConfig {
    /// The values of the preset `quick`. A few hundred cycles are all there is: small networks that
    /// generalise, and several passes over rollouts short enough for a dozen updates.
    fn default() -> Self {
        Self {
            n_steps: 128,
            n_envs: 8,
            batch_size: 32,
            n_epochs: 10,
            gamma: 1.0,
            gae_lambda: 0.95,
            clip_range: 0.2,
            ent_coef: 0.01,
            vf_coef: 0.5,
            max_grad_norm: 0.5,
            target_kl: None,
            advantage: Advantage::Sampled,
            normalize_advantage: true,
            learning_rate: 1e-3,
            warmup_fraction: 0.01,
            linear_decay: true,
            adam_eps: 1e-5,
            net_arch: NetArch { pi: vec![64], vf: vec![64] },
        }
    }
}

impl PpoConfig {
    /// Notes all impossible values.
    pub fn validate(&self, path: &str, problems: &mut Problems) {
        let at = |field: &str| format!("{path}.{field}");
        problems.check_count(at("n_steps"), self.n_steps, limits::ROLLOUTS);
        problems.check_count(at("n_envs"), self.n_envs, limits::ENVIRONMENTS);
        if self.n_envs > 0 && !self.n_steps.is_multiple_of(self.n_envs) {
            let problem = format!("is {}, which does not divide n_steps = {}", self.n_envs, self.n_steps);
            problems.add(at("n_envs"), problem);
        }
        problems.check_count(at("n_epochs"), self.n_epochs, limits::EPOCHS);
        problems.check_count(at("batch_size"), self.batch_size, limits::ROLLOUTS);
        if self.batch_size > 0 && !self.n_steps.is_multiple_of(self.batch_size) {
            let problem = format!("is {}, which does not divide n_steps = {}", self.batch_size, self.n_steps);
            problems.add(at("batch_size"), problem);
        }
        for (field, value, range) in [
            ("gamma", self.gamma, limits::SHARES),
            ("gae_lambda", self.gae_lambda, limits::SHARES),
            ("warmup_fraction", self.warmup_fraction, limits::WARM_UPS),
            ("ent_coef", self.ent_coef, limits::FACTORS),
            ("vf_coef", self.vf_coef, limits::FACTORS),
            ("clip_range", self.clip_range, limits::POSITIVE_FACTORS),
            ("max_grad_norm", self.max_grad_norm, limits::POSITIVE_FACTORS),
            ("target_kl", self.target_kl.unwrap_or(1.0), limits::POSITIVE_FACTORS),
            ("learning_rate", self.learning_rate, limits::LEARNING_RATES),
            ("adam_eps", self.adam_eps, limits::LEARNING_RATES),
        ] {
            problems.check_number(at(field), value, range);
        }
        problems.check_net_arch(at("net_arch.pi"), &self.net_arch.pi);
        problems.check_net_arch(at("net_arch.vf"), &self.net_arch.vf);
    }
}
