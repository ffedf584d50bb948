//! `ltd-train`: trains the two policies.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = ltd_train::Cli::parse();
    ltd_engine::bound_spinning();
    cli.run()
}
