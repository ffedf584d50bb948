//! `ltd-decode`: decode prompts plainly, with fixed trees, or under a learned policy.

mod cli;
mod decode;
mod dump;
mod report;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_console::begin();
    let cli = cli::Cli::parse();
    ltd_engine::bound_spinning();
    match decode::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Messages tell their causes themselves.
            ltd_console::fail("ltd-decode", &error, error.is::<decode::UsageError>())
        }
    }
}
