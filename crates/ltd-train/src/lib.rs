//! PPO, stages, checkpoints and metrics: trains policies from measured tokens per second.
//!
//! ```no_run
//! use ltd_run::{Interrupt, Progress, TrainConfig};
//! use ltd_train::{Ending, Trainer};
//!
//! let config = TrainConfig::load("configs/quickstart.json".as_ref(), &[])?;
//! let (progress, interrupt) = (Progress::detect(), Interrupt::default());
//! let mut trainer = Trainer::create(config, "runs/mine".as_ref(), progress, interrupt)?;
//! if let Ending::Finished { summary } = trainer.learn()? {
//!     println!("{summary}");
//! }
//! # Ok::<(), ltd_train::Error>(())
//! ```
//!
//! [`ppo`] learns on any [`ltd_env::Env`]; [`metrics`] names the curves.

mod arguments;
mod autograd;
mod classify;
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
