//! Command line of `ltd-bench`.

use clap::{Parser, Subcommand};

use crate::engine::{self, EngineArgs};
use crate::error::Result;

/// Measure the parts of the framework against what the machine allows.
#[derive(Debug, Parser)]
#[command(name = "ltd-bench", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decoding, single forwards and whole cycles, each beside its bare matrix products and its
    /// floor
    Engine(EngineArgs),
}

impl Cli {
    pub(crate) fn run(&self) -> Result<()> {
        match &self.command {
            Command::Engine(args) => engine::run(args),
        }
    }
}
