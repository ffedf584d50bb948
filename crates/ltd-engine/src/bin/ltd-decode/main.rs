//! `ltd-decode`: decode prompts plainly, with fixed trees, or under a learned policy.

mod cli;
mod decode;
mod dump;
mod report;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    ltd_engine::bound_spinning();
    match decode::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough (`ltd-decode ... | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Messages tell their causes themselves.
            eprintln!("ltd-decode: {error}");
            ExitCode::from(if error.is::<decode::UsageError>() { 2 } else { 1 })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
