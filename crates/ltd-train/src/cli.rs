//! Command line of `ltd-train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::compare::compare;
use crate::config::StaticSetting;
use crate::interrupt::EXIT_CODE;
use crate::retarget::retarget;
use crate::run::timestamp;
use crate::{Ending, Error, Interrupt, Progress, Result, TrainConfig, Trainer};

/// Train the two policies of speculative decoding from measured tokens per second.
///
/// A run leaves its curves, checkpoints, policies and a final comparison in its folder. Watch it with
/// `tensorboard --logdir runs`, freeze it with `ltd-export`.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit a trained package to another machine, from recorded trees and that machine's latency table
    Retarget(RetargetArgs),
    /// Let packages and constants decode the same prompts in turns, and tell how fast each is
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration of a new run
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Change a value of the configuration, e.g. `--set size.ppo.learning_rate=3e-4`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "config")]
    overrides: Vec<String>,
    /// Folder of the new run [default: runs/CONFIG-TIME]
    #[arg(long, value_name = "DIR", requires = "config")]
    run_dir: Option<PathBuf>,
    /// Go on with an interrupted run
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    resume: Option<PathBuf>,
    /// Check the configuration and print the plan, then stop
    #[arg(long, requires = "config")]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RetargetArgs {
    /// Package to start from
    #[arg(long, value_name = "DIR")]
    pub(crate) policy: PathBuf,
    /// Trace of the package's models, from any machine
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: PathBuf,
    /// Latency table of the new machine
    #[arg(long, value_name = "FILE")]
    pub(crate) latency: PathBuf,
    /// Folder of the new package
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Steps of replay that each policy of a pair goes on learning for; a factored policy needs none
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub(crate) steps: usize,
    /// Seed of that learning
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Configuration of a training run: models, dtype, length of answers, prompts of the evaluation
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set engine.dtype=f32`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Policy package; may be repeated
    #[arg(long = "policy", value_name = "DIR")]
    pub(crate) policies: Vec<PathBuf>,
    /// Constant depth and size; may be repeated [default: the configuration's evaluation.default]
    #[arg(long = "constant", value_name = "DEPTH,SIZE", value_parser = constant)]
    pub(crate) constants: Vec<StaticSetting>,
    /// Constant whose levels expand the whole beam, as EAGLE-3 drafts; may be repeated
    #[arg(long = "whole-beam", value_name = "DEPTH,SIZE", value_parser = constant)]
    pub(crate) whole_beams: Vec<StaticSetting>,
    /// Compare packages of other models too, as an experiment
    #[arg(long)]
    pub(crate) any_models: bool,
    /// Let the policies of packages decide that fall back to a constant
    #[arg(long)]
    pub(crate) ignore_fallback: bool,
    /// Prompts, in FastChat's question.jsonl form [default: the configuration's for the evaluation]
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// Prompts to pass over
    #[arg(long, value_name = "N", default_value_t = 0, requires = "questions")]
    pub(crate) skip: usize,
    /// Prompts to decode [default: all]
    #[arg(long, value_name = "N", requires = "questions")]
    pub(crate) limit: Option<usize>,
    /// End after this time, at a prompt's end
    #[arg(long, value_name = "M", value_parser = minutes)]
    pub(crate) max_minutes: Option<f64>,
    /// Write everything measured
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn constant(text: &str) -> Result<StaticSetting, String> {
    let parts = text.split_once(',').and_then(|(depth, size)| {
        Some(StaticSetting { depth: depth.trim().parse().ok()?, size: size.trim().parse().ok()? })
    });
    match parts {
        Some(setting) if setting.size > 0 => Ok(setting),
        _ => Err("expected a depth and a size of at least 1, such as 3,24".to_owned()),
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && f64::is_finite(minutes) => Ok(minutes),
        _ => Err("expected a number of minutes above 0".to_owned()),
    }
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        let result = match &self.command {
            Some(Command::Retarget(args)) => retarget(args).map(|()| ExitCode::SUCCESS),
            Some(Command::Compare(args)) => compare(args),
            None => self.run.execute(),
        };
        match result {
            Ok(code) => code,
            Err(error) => {
                eprintln!("ltd-train: {error}");
                ExitCode::from(if error.is_usage() { 2 } else { 1 })
            }
        }
    }
}

impl RunArgs {
    fn execute(&self) -> Result<ExitCode> {
        let (folder, config) = match (&self.resume, &self.config) {
            (Some(run), _) => (run.clone(), None),
            (None, Some(file)) => {
                let config = TrainConfig::load(file, &self.overrides)?;
                if self.dry_run {
                    print!("{}", describe(&config));
                    return Ok(ExitCode::SUCCESS);
                }
                (self.run_dir.clone().unwrap_or_else(|| default_folder(file)), Some(config))
            }
            (None, None) => unreachable!("clap asks for one of both"),
        };
        let interrupt = Interrupt::listen().map_err(Error::Signal)?;
        let progress = Progress::detect();
        let mut trainer = match config {
            Some(config) => {
                progress.say(&format!("run folder {0}; curves: tensorboard --logdir {0}", folder.display()));
                Trainer::create(config, &folder, progress, interrupt)?
            }
            None => Trainer::resume(&folder, progress, interrupt)?,
        };
        let ending = trainer.learn().map_err(|error| unfinished(error, &folder))?;
        Ok(match ending {
            Ending::Finished { summary } => {
                println!("\n{summary}");
                let folder = folder.display();
                progress.say(&format!("freeze the policies: ltd-export --run {folder} --out policies"));
                ExitCode::SUCCESS
            }
            Ending::Interrupted { place } => {
                let folder = folder.display();
                progress.say(&format!("interrupted at {place}; go on with: ltd-train --resume {folder}"));
                ExitCode::from(EXIT_CODE)
            }
        })
    }
}

/// Says how a run goes on that failed, unless the input must be changed first.
fn unfinished(error: Error, run: &Path) -> Error {
    if error.is_usage() {
        return error;
    }
    Error::Unfinished { run: run.to_owned(), source: Box::new(error) }
}

fn default_folder(config: &Path) -> PathBuf {
    let name = config.file_stem().unwrap_or_default().to_string_lossy();
    Path::new("runs").join(format!("{name}-{}", timestamp()))
}

/// The plan of a configuration, then all its values.
fn describe(config: &TrainConfig) -> String {
    let mut text = String::from("stages:\n");
    let mut line = |line: std::fmt::Arguments| text.extend([line.to_string().as_str(), "\n"]);
    for stage in config.plan() {
        let limit = stage
            .max_time
            .map_or_else(String::new, |limit| format!(", at most {:.1} min", limit.as_secs_f64() / 60.0));
        line(format_args!("  {:<13} {}{limit}", stage.name, stage.task));
    }
    let points = config.evaluation.grid.settings(config.engine.beam_width).len();
    line(format_args!("then the best of {points} constants is sought, and all contenders are compared\n"));
    text + &serde_json::to_string_pretty(config).expect("invariant: a configuration is plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_disturbed_says_how_it_goes_on() {
        let run = Path::new("runs/quickstart-20260131-235959");
        let disturbed = unfinished(Error::Disturbed("verify: too slow".to_owned()), run);
        assert_eq!(
            disturbed.to_string(),
            "what was measured makes no sense: verify: too slow\n\
             what is finished is kept; go on with: ltd-train --resume runs/quickstart-20260131-235959"
        );
        assert!(!disturbed.is_usage());
        let wrong_input = unfinished(Error::Recorded("another table".to_owned()), run);
        assert!(matches!(wrong_input, Error::Recorded(_)));
    }
}
