//! Records draft trees, measures what cycles cost, and tells what policies could gain. What runs
//! models needs LibTorch and the feature `live`, which is on unless switched off.

mod cli;
mod error;
#[cfg(feature = "live")]
mod live;
mod merge;
mod oracle;

pub use cli::Cli;
pub use error::{Error, Result};
