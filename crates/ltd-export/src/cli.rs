//! Command line of `ltd-export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ltd_console::say;
use ltd_policy::factored::NEVER;
use ltd_policy::{ChoiceEntry, Expected, FactoredSourceEntry, PolicyEntry, SourceActions, SourceEntry};

use crate::{Export, Form, Forms, Result, export};

/// Freeze the policies of a training run into a package that servers load.
///
/// The package is a folder with `manifest.json`, and per learned policy a safetensors file and
/// files in forms that others load, each checked against what the policy answered in training.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Stage to export, e.g. 02-depth [default: the one that the run selected]
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Forms of the networks besides safetensors, separated by commas [default: all that suit each]
    #[arg(long, value_name = "FORMS", value_enum, value_delimiter = ',')]
    format: Vec<Form>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ltd_console::fail("ltd-export", &error, error.is_usage()),
        }
    }

    fn execute(&self) -> Result<()> {
        let forms = if self.format.is_empty() { Forms::Suitable } else { Forms::These(self.format.clone()) };
        let export = export(&self.run, self.stage.as_deref(), &forms, &self.out)?;
        Ok(say!("{}", describe(&self.out, &export))?)
    }
}

fn describe(out: &Path, Export { manifest, probes }: &Export) -> String {
    let mut lines = vec![
        format!("{}: policies of {}, stage {}", out.display(), manifest.run, manifest.stage),
        format!(
            "trained with {} and {}, {}, {}, reward {}",
            manifest.target.name, manifest.draft.name, manifest.dtype, manifest.device, manifest.objective
        ),
    ];
    if let Some(Expected { tokens_per_second, low, high, prompts }) = manifest.expected {
        lines.push(format!(
            "measured {tokens_per_second:.1} tokens/s (95 % interval {low:.1} - {high:.1}, {prompts} validation prompts)"
        ));
    }
    match &manifest.policy {
        PolicyEntry::Pair { depth, size, source } => {
            lines.extend([describe_choice("depth", depth), describe_choice("size", size)]);
            lines.push(match source {
                SourceEntry::Trees => "source: trees".to_owned(),
                SourceEntry::Rule(rule) => format!("source: trees, and copies of {rule}"),
                SourceEntry::Learned { layout, .. } => {
                    format!("source: policy over {} ({} numbers)", layout.name, layout.len())
                }
            });
        }
        PolicyEntry::Factored { layout, latency_table, tokens_per_second, margin, source, .. } => {
            lines.push(format!(
                "factored policy over {} ({} numbers), {latency_table} at {tokens_per_second:.1} tokens/s, margin {margin:.2}",
                layout.name,
                layout.len()
            ));
            lines.push(match source {
                None => "source: trees".to_owned(),
                Some(FactoredSourceEntry { layout, outcomes, margin, merged_margin, .. }) => {
                    let SourceActions { chains, merged } = &outcomes.source;
                    let both = match merged {
                        Some(merged) if *merged_margin < NEVER => {
                            format!(", or both (up to {}, margin {merged_margin:.2})", merged.chain)
                        }
                        Some(_) => ", never both".to_owned(),
                        None => String::new(),
                    };
                    let (name, numbers) = (&layout.name, layout.len());
                    format!(
                        "source: trees, and copies of {chains:?} tokens{both}, over {name} ({numbers} numbers), margin {margin:.2}"
                    )
                }
            });
        }
    }
    if let Some(fallback) = &manifest.fallback {
        lines.push(format!("{fallback} decide instead of the policy: {}", fallback.reason));
    }
    lines.push(format!("{} files, each checked on {probes} probe observations", manifest.files.len()));
    lines.join("\n  ")
}

fn describe_choice(what: &str, entry: &ChoiceEntry) -> String {
    match entry {
        ChoiceEntry::Constant { value } => format!("{what}: constant {value}"),
        ChoiceEntry::Learned { is_constant, layout, .. } => {
            let remark = if *is_constant { ", which chose one and the same in validation" } else { "" };
            format!("{what}: policy over {} ({} numbers){remark}", layout.name, layout.len())
        }
    }
}
