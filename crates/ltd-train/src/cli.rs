//! Command line of `ltd-train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use ltd_console::{note, print_result, say};
use ltd_engine::text::{StopToken, TextModel};
use ltd_policy::MAX_SIZE;

use crate::compare::compare;
use crate::config::{Minutes, StaticSetting, limits};
use crate::interrupt::listen;
use crate::prompts::Prompts;
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
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = count())]
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
    #[arg(long, value_name = "N", requires = "questions", value_parser = count())]
    pub(crate) limit: Option<usize>,
    /// End after this time, at a prompt's end
    #[arg(long, value_name = "M")]
    pub(crate) max_minutes: Option<Minutes>,
    /// Write everything measured
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn constant(text: &str) -> Result<StaticSetting, String> {
    let parts = text.split_once(',').and_then(|(depth, size)| {
        Some(StaticSetting { depth: depth.trim().parse().ok()?, size: size.trim().parse().ok()? })
    });
    match parts {
        Some(setting) if (1..=MAX_SIZE).contains(&setting.size) => Ok(setting),
        _ => Err(format!("expected a depth and a size within 1..={MAX_SIZE}, such as 3,24")),
    }
}

/// A number of steps or prompts.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=*limits::COUNTS.end() as u64)
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        let result = match &self.command {
            Some(Command::Retarget(args)) => retarget(args).map(|()| ExitCode::SUCCESS),
            Some(Command::Compare(args)) => compare(args).map(|()| ExitCode::SUCCESS),
            None => self.run.execute(),
        };
        match result {
            Ok(code) => code,
            Err(error) if error.is_interrupt() => ExitCode::from(ltd_console::INTERRUPTED),
            Err(error) => ltd_console::fail("ltd-train", &error, error.is_usage()),
        }
    }
}

impl RunArgs {
    fn execute(&self) -> Result<ExitCode> {
        if let (Some(file), true) = (&self.config, self.dry_run) {
            let config = TrainConfig::load(file, &self.overrides)?;
            let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
            // Without the models, whose memory bounds the length of prompts.
            for warning in Prompts::read(&config.prompts, &text)?.warnings() {
                note!("ltd-train: warning: {warning}");
            }
            print_result(format_args!("{}", describe(&config, text.stop_tokens())))?;
            return Ok(ExitCode::SUCCESS);
        }
        let interrupt = Interrupt::default();
        let mut trainer = self.open(&interrupt)?;
        listen(&interrupt).map_err(Error::Signal)?;
        let ending = trainer.learn().map_err(|error| unfinished(error, trainer.folder()))?;
        let folder = trainer.folder().display();
        Ok(match ending {
            Ending::Finished { summary } => {
                say!("\n{summary}")?;
                note!("freeze the policies: ltd-export --run {folder} --out policies");
                ExitCode::SUCCESS
            }
            Ending::Interrupted { place } => {
                note!("interrupted at {place}; go on with: ltd-train --resume {folder}");
                ExitCode::from(ltd_console::INTERRUPTED)
            }
        })
    }

    /// Begins a run, or goes on with one.
    fn open(&self, interrupt: &Interrupt) -> Result<Trainer> {
        let (interrupt, progress) = (interrupt.clone(), Progress::detect());
        if let Some(run) = &self.resume {
            return Trainer::resume(run, progress, interrupt).map_err(|error| unfinished(error, run));
        }
        let file = self.config.as_ref().expect("invariant: clap asks for one of both");
        let config = TrainConfig::load(file, &self.overrides)?;
        match &self.run_dir {
            Some(folder) => Trainer::create(config, folder, progress, interrupt),
            None => Trainer::create_unique(config, &default_folder(file), progress, interrupt),
        }
    }
}

/// Says how a run goes on that failed, unless it would fail again: the input must be changed first.
fn unfinished(error: Error, run: &Path) -> Error {
    if error.is_usage() || error.is_empty_handed() {
        return error;
    }
    Error::Unfinished { run: run.to_owned(), source: Box::new(error) }
}

fn default_folder(config: &Path) -> PathBuf {
    let name = config.file_stem().unwrap_or_default().to_string_lossy();
    Path::new("runs").join(format!("{name}-{}", timestamp()))
}

/// The plan of a configuration, where answers end, then all its values.
fn describe(config: &TrainConfig, stop_tokens: &[StopToken]) -> String {
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
    line(format_args!("answers end at:"));
    for token in stop_tokens {
        line(format_args!("  {:<6} {token:<13} {}", token.id, token.origins.join(", ")));
    }
    line(format_args!(""));
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
