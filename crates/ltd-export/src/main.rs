//! `ltd-export`: freezes the policies of a run, and imports others.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ltd_console::begin();
    ltd_export::Cli::parse().run()
}
