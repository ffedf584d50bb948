//! Named sets of defaults.

use ltd_engine::SamplingParams;
use ltd_env::Reward;
use ltd_policy::{DepthActions, PolicyKind, SizeActions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Advantage, DepthConfig, DepthRange, DepthStage, EvaluationConfig, Grid, NetArch, PpoConfig, RoundStage,
    SizeConfig, SizeStage, SourceConfig, StagesConfig, StaticSetting,
};

/// A named set of defaults for everything but models and prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Minutes on a CPU: small networks, short rollouts, small trees.
    #[default]
    Quick,
    /// The recipe of the paper (arXiv 2603.01639).
    Paper,
    /// The values of the paper's released scripts, which differ from its text: 24 sizes, a smaller
    /// step size, one epoch over short rollouts.
    Official,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quick, Self::Paper, Self::Official];

    /// Hyper-parameters of one policy.
    pub fn ppo(self, kind: PolicyKind) -> PpoConfig {
        let paper = PpoConfig {
            n_steps: 2048,
            n_envs: 1,
            batch_size: 256,
            n_epochs: 20,
            gamma: 0.9,
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
            net_arch: NetArch { pi: vec![1024, 256], vf: vec![1024, 256] },
        };
        let paper = match kind {
            PolicyKind::Size | PolicyKind::Source => paper,
            PolicyKind::Depth => {
                PpoConfig { gamma: 0.999, net_arch: NetArch { pi: vec![1024], vf: vec![1024, 256] }, ..paper }
            }
        };
        match self {
            Self::Paper => paper,
            Self::Official => {
                PpoConfig { n_steps: 128, batch_size: 64, n_epochs: 1, learning_rate: 3e-4, ..paper }
            }
            Self::Quick => PpoConfig::default(),
        }
    }

    fn sizes(self) -> Vec<usize> {
        match self {
            Self::Quick => vec![2, 4, 6, 8, 12, 16, 24, 32, 48, 64],
            Self::Paper => (1..=12).map(|step| step * 20).collect(),
            Self::Official => (1..=24).map(|step| step * 10).collect(),
        }
    }

    fn stages(self) -> StagesConfig {
        let round =
            |train, total_timesteps| RoundStage { train, total_timesteps, max_minutes: None, backend: None };
        match self {
            Self::Quick => StagesConfig {
                size: Some(SizeStage {
                    total_timesteps: 1024,
                    max_minutes: None,
                    random_depth: DepthRange { min: 0, max: 4 },
                }),
                predictor: None,
                imitation: None,
                depth: Some(DepthStage { total_timesteps: 2048, max_minutes: None, verification_size: 16 }),
                rounds: 1,
                round: vec![round(PolicyKind::Size, 1024), round(PolicyKind::Depth, 2048)],
                candidates: 2,
            },
            Self::Paper | Self::Official => StagesConfig {
                size: Some(SizeStage {
                    total_timesteps: 100_000,
                    max_minutes: None,
                    random_depth: DepthRange { min: 1, max: 12 },
                }),
                predictor: None,
                imitation: None,
                depth: Some(DepthStage {
                    total_timesteps: 1_000_000,
                    max_minutes: None,
                    verification_size: 60,
                }),
                rounds: 1,
                round: vec![
                    round(PolicyKind::Size, 100_000),
                    round(PolicyKind::Depth, 1_000_000),
                    round(PolicyKind::Size, 100_000),
                ],
                candidates: 10,
            },
        }
    }

    fn evaluation(self) -> EvaluationConfig {
        let (depths, sizes, max_new_tokens) = match self {
            Self::Quick => (vec![0, 1, 2, 3, 5], vec![4, 8, 16, 32], 64),
            // The grid search of the paper's appendix.
            Self::Paper | Self::Official => {
                ((4..=12).collect(), (1..=6).map(|step| step * 40).collect(), 256)
            }
        };
        EvaluationConfig {
            max_new_tokens,
            default: StaticSetting { depth: 7, size: 59 },
            grid: Grid { depths, sizes },
            validation_max_minutes: None,
            max_minutes: None,
        }
    }

    /// The preset as JSON, over which a file is merged.
    pub(super) fn to_json(self) -> Value {
        let actions = match self {
            Self::Quick => DepthActions { min_depth: 0, max_depth: 8, decide_every: 1 },
            Self::Paper | Self::Official => DepthActions { min_depth: 1, max_depth: 12, decide_every: 1 },
        };
        let layout = if self == Self::Quick { "compact" } else { "reference" };
        let reward = if self == Self::Quick { Reward::Gain } else { Reward::Throughput };
        json!({
            "preset": self,
            "seed": 1,
            "engine": {},
            "max_new_tokens": if self == Self::Quick { 96 } else { 256 },
            "sampling": SamplingParams::default(),
            "replay": null,
            "reward": reward,
            "depth": DepthConfig { actions, layout: layout.to_owned(), ppo: self.ppo(PolicyKind::Depth) },
            "size": SizeConfig {
                sizes: SizeActions { sizes: self.sizes() },
                layout: layout.to_owned(),
                ppo: self.ppo(PolicyKind::Size),
            },
            "source": SourceConfig {
                chains: vec![2, 4, 8, 12, 16, 24],
                merged: if self == Self::Quick { Some(12) } else { None },
                ppo: self.ppo(PolicyKind::Source),
            },
            "stages": self.stages(),
            "evaluation": self.evaluation(),
        })
    }
}
