//! `ltd-bench`: measures the parts of the framework against what the machine allows.

mod cli;
mod engine;
mod error;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    ltd_engine::bound_spinning();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ltd-bench: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}
