//! What the programs share: the configuration of a run, its prompts, what replay needs of a machine,
//! progress, interrupts, and the machine itself.
//!
//! - [`config`]: one JSON file, merged over a preset and checked as a whole; [`config::plan`] makes
//!   stages of it.
//! - [`prompts`]: question files as tokens, and whether sets of them overlap.
//! - [`recording`]: draft trees of prompts, and the costs of cycles on this machine.
//! - [`statistics`]: how sure measured throughputs are.
//! - [`progress`], [`interrupt`], [`machine`]: what long work shows, how it ends early, and where it
//!   ran.

pub mod config;
mod error;
pub mod interrupt;
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
