//! Command line of `ltd-export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use ltd_console::print_result;
use ltd_policy::factored::NEVER;
use ltd_policy::{
    ChoiceEntry, Compat, Expected, FactoredSourceEntry, Manifest, ModelIdentity, Models, PolicyEntry,
    PolicyPackage, SourceActions, SourceEntry,
};
use ltd_run::TrainConfig;

use crate::export::{check_out, load_stage};
use crate::servers::{self, Known, Place, Recordings, Server, printable};
use crate::{Error, Export, Form, Forms, Imported, Result, export, import, write};

/// Freeze the policies of a training run into a package that servers load.
///
/// The package is a folder with `manifest.json`, and per learned policy a safetensors file and
/// files in forms that others load, each checked against what the policy answered in training.
///
/// With `--for` it writes settings for servers in place of a package: of the settings that do not
/// change, the fastest that each server accepts, and what it loses against the policy. They are
/// those that the run compared, those of a package, or with `--trace` all that replay can price.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group(ArgGroup::new("from").required(true).args(["run", "package"])))]
#[command(group(ArgGroup::new("to").required(true).multiple(true).args(["out", "servers"])))]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Folder of a package, in place of a run (with --for)
    #[arg(long, value_name = "DIR", requires = "servers")]
    package: Option<PathBuf>,
    /// Stage to export, e.g. 02-depth [default: the one that the run selected]
    #[arg(long, value_name = "STAGE", conflicts_with = "package")]
    stage: Option<String>,
    /// Forms of the networks besides safetensors, separated by commas [default: all that suit each]
    #[arg(long, value_name = "FORMS", value_enum, value_delimiter = ',', conflicts_with = "servers")]
    format: Vec<Form>,
    /// Print settings for these servers, separated by commas; with --out, write them too
    #[arg(long = "for", id = "servers", value_name = "SERVERS", value_enum, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Where the servers find the draft model [default: its name in the package]
    #[arg(long, value_name = "PATH", requires = "servers")]
    draft: Option<String>,
    /// Recorded trees to compare settings on, with all that was not measured
    #[arg(long, value_name = "DIR", requires_all = ["servers", "latency"])]
    trace: Option<PathBuf>,
    /// What its cycles cost
    #[arg(long, value_name = "FILE", requires = "trace")]
    latency: Option<PathBuf>,
    /// The same prompts recorded with a beam width of 1, for servers that draft chains
    #[arg(long, value_name = "DIR", requires_all = ["trace", "chains_latency"])]
    chains: Option<PathBuf>,
    /// What these cycles cost
    #[arg(long, value_name = "FILE", requires = "chains")]
    chains_latency: Option<PathBuf>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a package of policies that the code published with the paper has trained
    ///
    /// The package decides as that code does when it decodes, with its observations, its cadence
    /// and its action tables. Archives are read, never executed.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// Archive of the depth policy, as stable-baselines3 saves it, or a constant draft depth
    #[arg(long, value_name = "ZIP|N", allow_negative_numbers = true)]
    depth: Imported,
    /// Archive of the size policy, or a constant verification size
    #[arg(long, value_name = "ZIP|N", allow_negative_numbers = true)]
    size: Imported,
    /// Configuration that names the models that the policies were trained with
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Forms of the networks besides safetensors, separated by commas [default: all that suit each]
    #[arg(long, value_name = "FORMS", value_enum, value_delimiter = ',')]
    format: Vec<Form>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ImportArgs {
    fn execute(&self) -> Result<()> {
        check_out(&self.out)?;
        let engine = TrainConfig::load(&self.config, &[])?.engine;
        // Reading the models takes longest: what is wrong with the archives is said before.
        let unread = ModelIdentity { name: String::new(), sha256: String::new() };
        let beam_width = engine.beam_width;
        import(&self.depth, &self.size, Models { target: unread.clone(), draft: unread, beam_width })?;
        let package = import(&self.depth, &self.size, engine.models()?)?;
        let export = write(&package, &Forms::asked(&self.format), &self.out)?;
        tell(Some(&self.out), &describe(&self.out, &export))
    }
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
        if let Some(Command::Import(args)) = &self.command {
            return args.execute();
        }
        match (&self.run, &self.out) {
            (Some(run), Some(out)) if self.servers.is_empty() => {
                let export = export(run, self.stage.as_deref(), &Forms::asked(&self.format), out)?;
                tell(Some(out), &describe(out, &export))
            }
            _ => self.settings(),
        }
    }

    /// Settings for servers.
    fn settings(&self) -> Result<()> {
        if let Some(out) = &self.out {
            check_out(out)?;
        }
        let (folder, package) = match (&self.run, &self.package) {
            (Some(run), _) => (run, load_stage(run, self.stage.as_deref())?),
            (None, Some(folder)) => (folder, PolicyPackage::load(folder)?),
            (None, None) => unreachable!("invariant: one of them is required"),
        };
        let manifest = &package.manifest;
        let known = match (&self.trace, &self.latency) {
            (Some(trace), Some(latency)) => {
                let chains = self.chains.as_deref().zip(self.chains_latency.as_deref());
                Recordings::read((trace, latency), chains)?.known(folder, &package)?
            }
            _ if self.run.is_some() => Known::of_run(folder, manifest)?,
            _ => Known::of_package(folder, manifest)?,
        };
        let advice = servers::advise(&self.servers, &known, &self.place(folder, manifest)?)?;
        if let Some(out) = &self.out {
            servers::write(out, &known, &advice)?;
        }
        let text: String = advice.iter().map(|advice| advice.describe(&known)).collect();
        tell(self.out.as_deref(), &format!("{}{text}", conditions(folder, manifest)))
    }

    fn place(&self, folder: &Path, manifest: &Manifest) -> Result<Place> {
        let draft = self.draft.clone().unwrap_or_else(|| manifest.draft.name.clone());
        if draft.is_empty() {
            let problem = "the draft model has no name: say where servers find it with --draft".to_owned();
            return Err(Error::Package { path: folder.to_owned(), problem });
        }
        // Files hold it as it is, and a terminal would be told it so.
        if self.draft.is_none() && draft.contains(char::is_control) {
            let problem = format!(
                "the draft model is {draft:?}, whose name has control characters: say where servers find it \
                 with --draft"
            );
            return Err(Error::Package { path: folder.to_owned(), problem });
        }
        let greedy = manifest.sampling.is_none_or(|sampling| sampling.is_greedy());
        Ok(Place { draft, greedy })
    }
}

/// What settings were found for: elsewhere others may be best.
fn conditions(folder: &Path, manifest: &Manifest) -> String {
    let Manifest { target, draft, dtype, device, .. } = manifest;
    let sampling = manifest.sampling.map_or_else(String::new, |sampling| format!("{sampling}, "));
    let told = format!(
        "of {}: {} with {}, {sampling}{dtype}, {device}, one sequence at a time",
        folder.display(),
        target.name,
        draft.name
    );
    format!("# {}\n", printable(&told))
}

/// Prints what was made. What `out` holds by then is whole, so that it stays where this fails.
fn tell(out: Option<&Path>, text: &str) -> Result<()> {
    print_result(format_args!("{text}")).map_err(|source| match out {
        Some(out) => Error::Untold { path: out.to_owned(), source },
        None => source.into(),
    })
}

fn describe(out: &Path, Export { manifest, probes }: &Export) -> String {
    let mut lines = vec![
        format!("{}: policies of {}, stage {}", out.display(), manifest.run, manifest.stage),
        format!(
            "trained {}with {} and {}, {}, {}, reward {}",
            // The published code has no other number type, device and reward.
            if manifest.compat == Some(Compat::Official) { "as published: " } else { "" },
            manifest.target.name,
            manifest.draft.name,
            manifest.dtype,
            manifest.device,
            manifest.objective
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
    let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n  ") + "\n"
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
