//! Command line of `ltd-export`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ltd_policy::{ChoiceEntry, Expected, Fallback, PolicyEntry};

use crate::{Export, Result, export};

/// Freeze the policies of a training run into a package that servers load.
///
/// The package is a folder with `manifest.json`, and per learned policy a safetensors file and a `TorchScript` module, each checked
/// against what the policy answered in training.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Stage to export, e.g. 02-depth [default: the one that the run selected]
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ltd-export: {error}");
                ExitCode::from(if error.is_usage() { 2 } else { 1 })
            }
        }
    }

    fn execute(&self) -> Result<()> {
        let Export { manifest, probes } = export(&self.run, self.stage.as_deref(), &self.out)?;
        println!("{}: policies of {}, stage {}", self.out.display(), manifest.run, manifest.stage);
        println!(
            "  trained with {} and {}, {}, {}, reward {}",
            manifest.target.name, manifest.draft.name, manifest.dtype, manifest.device, manifest.objective
        );
        if let Some(Expected { tokens_per_second, low, high, prompts }) = manifest.expected {
            println!(
                "  measured {tokens_per_second:.1} tokens/s (95 % interval {low:.1} - {high:.1}, {prompts} validation prompts)"
            );
        }
        match &manifest.policy {
            PolicyEntry::Pair { depth, size } => {
                print_choice("depth", depth);
                print_choice("size", size);
            }
            PolicyEntry::Factored { layout, latency_table, tokens_per_second, margin, .. } => println!(
                "  factored policy over {} ({} numbers), {latency_table} at {tokens_per_second:.1} tokens/s, margin {margin:.2}",
                layout.name,
                layout.len()
            ),
        }
        if let Some(Fallback { depth, size, reason }) = &manifest.fallback {
            println!("  depth {depth} and size {size} decide instead of the policy: {reason}");
        }
        println!("  {} files, each checked on {probes} probe observations", manifest.files.len());
        Ok(())
    }
}

fn print_choice(what: &str, entry: &ChoiceEntry) {
    match entry {
        ChoiceEntry::Constant { value } => println!("  {what}: constant {value}"),
        ChoiceEntry::Learned { is_constant, layout, .. } => {
            let remark = if *is_constant { ", which chose one and the same in validation" } else { "" };
            println!("  {what}: policy over {} ({} numbers){remark}", layout.name, layout.len());
        }
    }
}
