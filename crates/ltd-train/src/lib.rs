//! PPO, stages, checkpoints and metrics: trains the two policies from measured tokens per second.

mod error;
pub mod ppo;
mod problem;

pub use error::{Error, Result};
pub use problem::Problems;
