//! PPO, stages, checkpoints and metrics: trains the two policies from measured tokens per second.

mod arguments;
mod cli;
mod compare;
mod error;
mod evaluate;
mod imitation;
mod learn;
pub mod metrics;
pub mod ppo;
mod predictor;
mod recorded;
mod retarget;
mod run;
mod trainer;

pub use cli::Cli;
pub use error::{Error, Result};
pub use trainer::{Ending, Trainer};
