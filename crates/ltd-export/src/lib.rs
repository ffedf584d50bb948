//! Freezes the policies of a run into a verified policy package.

mod cli;
mod error;
mod export;
mod torchscript;

pub use cli::Cli;
pub use error::{Error, Result};
pub use export::{Export, export, write};
