//! What the programs share: the configuration of a run, its prompts, what replay needs of a
//! machine, progress, interrupts, and the machine itself.
//!
//! ```no_run
//! use ltd_run::{Machine, TrainConfig};
//!
//! let overrides = ["size.ppo.learning_rate=3e-4".to_owned()];
//! // All problems of the file are in one error.
//! let config = TrainConfig::load("configs/quickstart.json".as_ref(), &overrides)?;
//! for stage in config.plan() {
//!     println!("{}: {}", stage.name, stage.task);
//! }
//! println!("on {:?}", Machine::read().cpu);
//! # Ok::<(), ltd_run::Error>(())
//! ```
//!
//! - [`config`]: one JSON file, merged over a preset and checked as a whole;
//!   [`TrainConfig::plan`] makes stages of it.
//! - [`prompts`]: question files as tokens, and whether sets of them overlap.
//! - [`recording`]: draft trees of prompts, and the costs of cycles on this machine.
//! - [`statistics`]: how sure measured throughputs are.
//! - [`progress`], [`interrupt`], [`machine`]: what long work shows, how it ends early, and where
//!   it ran.

pub mod config;
mod error;
pub mod interrupt;
pub mod local_rank;
pub mod machine;
pub mod progress;
pub mod prompts;
pub mod recording;
pub mod statistics;

pub use config::TrainConfig;
pub use error::{Error, Result};
pub use interrupt::Interrupt;
pub use machine::Machine;
pub use progress::Progress;
