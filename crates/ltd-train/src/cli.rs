//! Command line of `ltd-train`; the arguments of each command stand beside it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::classify::{ClassifyArgs, classify};
use crate::compare::{CompareArgs, ReportArgs, compare, list_contenders, report};
use crate::learn::{LearnArgs, learn};
use crate::retarget::{RetargetArgs, retarget};

/// Train the policies of speculative decoding from measured tokens per second.
///
/// A run leaves its curves, checkpoints, policies and a final comparison in its folder. Watch it
/// with `tensorboard --logdir runs`, freeze it with `ltd-export`.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    learn: LearnArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit a trained package to another machine, from recorded trees and that machine's latency
    /// table
    Retarget(RetargetArgs),
    /// List the published rules that `compare` knows
    Contenders,
    /// Train the classifiers that some published rules decide by, from recorded trees
    Classify(ClassifyArgs),
    /// Let policies, constants and published rules answer the same questions in turns, and tell how
    /// fast each is
    Compare(Box<CompareArgs>),
    /// Report what `compare --results` kept, also of a comparison that was ended
    Report(ReportArgs),
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        let result = match &self.command {
            Some(Command::Retarget(args)) => retarget(args).map(|()| ExitCode::SUCCESS),
            Some(Command::Classify(args)) => classify(args).map(|()| ExitCode::SUCCESS),
            Some(Command::Contenders) => list_contenders().map(|()| ExitCode::SUCCESS),
            Some(Command::Compare(args)) => compare(args).map(|()| ExitCode::SUCCESS),
            Some(Command::Report(args)) => report(args).map(|()| ExitCode::SUCCESS),
            None => learn(&self.learn),
        };
        match result {
            Ok(code) => code,
            Err(error) if error.is_interrupt() => ExitCode::from(ltd_console::INTERRUPTED),
            Err(error) => ltd_console::fail("ltd-train", &error, error.is_usage()),
        }
    }
}
