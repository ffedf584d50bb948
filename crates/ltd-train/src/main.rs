//! `ltd-train`: trains the two policies.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_train::Cli::parse().run()
}
