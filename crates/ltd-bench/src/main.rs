//! `ltd-bench`: measures the parts of the framework against what the machine allows.

mod cli;
mod engine;
mod error;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_console::begin();
    let cli = cli::Cli::parse();
    ltd_engine::bound_spinning();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ltd_console::fail("ltd-bench", &error, error.is_usage()),
    }
}
