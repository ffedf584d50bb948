//! `ltd-trace`: records draft trees, measures what cycles cost, and tells what policies could gain.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_console::begin();
    let cli = ltd_trace::Cli::parse();
    #[cfg(feature = "live")]
    ltd_engine::bound_spinning();
    cli.run()
}
