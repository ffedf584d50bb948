//! PPO, stages, checkpoints and metrics: trains the two policies from measured tokens per second.

mod cli;
mod compare;
mod config;
mod error;
mod evaluate;
mod imitation;
mod interrupt;
pub mod metrics;
mod plan;
pub mod ppo;
mod predictor;
mod progress;
mod prompts;
mod recording;
mod retarget;
mod run;
mod trainer;

pub use cli::Cli;
pub use config::{
    Backend, DepthConfig, DepthRange, DepthStage, EvaluationConfig, Grid, ImitationStage, Minutes,
    PredictorStage, Preset, Problems, PromptSet, PromptSets, ReplayConfig, RoundStage, SizeConfig, SizeStage,
    StagesConfig, StaticSetting, TrainConfig,
};
pub use ctrlc::Error as SignalError;
pub use error::{Error, Result};
pub use evaluate::quartiles;
pub use interrupt::listen;
pub use ltd_env::Interrupt;
pub use plan::{Counterpart, PolicyTask, Stage, StageTask};
pub use progress::{Progress, Task};
pub use prompts::load_prompts;
pub use recording::{Recording, describe_latency, measure_latency, record};
pub use run::{Machine, git_revision};
pub use trainer::{Ending, Trainer};
