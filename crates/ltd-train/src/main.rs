//! `ltd-train`: trains policies.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_console::begin();
    let cli = ltd_train::Cli::parse();
    ltd_engine::bound_spinning();
    cli.run()
}
