//! `ltd-decode`: decode prompts plainly, with fixed trees, or under a learned policy.

mod cli;
mod decode;
mod dump;
mod report;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match decode::run(&cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ltd-decode: {error:#}");
            ExitCode::from(if error.is::<decode::UsageError>() { 2 } else { 1 })
        }
    }
}
