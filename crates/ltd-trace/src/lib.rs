//! Records draft trees, measures what cycles cost, and tells what policies could gain.

mod cli;
mod error;
mod latency;
mod oracle;
mod record;

pub use cli::Cli;
pub use error::{Error, Result};
