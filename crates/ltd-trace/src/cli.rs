//! Command line of `ltd-trace`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "live")]
use crate::live::{latency, record};
use crate::{Result, merge, oracle};

/// Record draft trees once, measure costs anywhere, and learn what policies could gain.
///
/// What the trees contain does not depend on the hardware, and what cycles cost does not depend on
/// the text: a trace and a latency table together replay any policy on any machine.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decode prompts and record the draft tree at every position
    #[cfg(feature = "live")]
    Record(record::RecordArgs),
    /// Measure what the parts of a cycle cost on this machine
    #[cfg(feature = "live")]
    Latency(latency::LatencyArgs),
    /// Tell what constants, foresight and policies reach on a trace at the costs of a table
    Oracle(oracle::OracleArgs),
    /// Collect the sequences of several traces of the same models in one
    Merge(merge::MergeArgs),
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_interrupt() => ExitCode::from(ltd_console::INTERRUPTED),
            Err(error) => ltd_console::fail("ltd-trace", &error, error.is_usage()),
        }
    }

    fn execute(&self) -> Result<()> {
        match &self.command {
            #[cfg(feature = "live")]
            Command::Record(args) => record::record(args),
            #[cfg(feature = "live")]
            Command::Latency(args) => latency::latency(args),
            Command::Oracle(args) => oracle::oracle(args),
            Command::Merge(args) => merge::merge(args),
        }
    }
}
