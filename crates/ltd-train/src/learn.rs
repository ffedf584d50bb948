//! `ltd-train` itself: a run from its configuration to its comparison.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use ltd_console::{note, print_result, say};
use ltd_engine::text::{StopToken, TextModel};
use ltd_policy::json_text;
use ltd_run::interrupt::listen_unless;
use ltd_run::prompts::Prompts;
use ltd_run::{Interrupt, Progress, TrainConfig};

use crate::run::{RunFolder, timestamp};
use crate::trainer::check_given;
use crate::{Ending, Error, Result, Trainer};

#[derive(Debug, Args)]
pub(crate) struct LearnArgs {
    /// Configuration of a new run
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Change a value of the configuration, e.g. `--set size.ppo.learning_rate=3e-4`; may be
    /// repeated
    #[arg(long = "set", value_name = "PATH=VALUE", conflicts_with = "resume")]
    overrides: Vec<String>,
    /// Folder of the new run [default: runs/CONFIG-TIME]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    run_dir: Option<PathBuf>,
    /// Go on with an interrupted run
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    resume: Option<PathBuf>,
    /// Check the configuration and print the plan, then stop
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
}

/// Trains, or with `--dry-run` says what would be done.
pub(crate) fn learn(args: &LearnArgs) -> Result<ExitCode> {
    if let (Some(file), true) = (&args.config, args.dry_run) {
        return dry_run(file, args);
    }
    let (interrupt, begun) = (Interrupt::default(), Arc::new(AtomicBool::new(false)));
    let has_begun = Arc::clone(&begun);
    listen_unless(&interrupt, move || {
        let abandoned = !has_begun.load(Ordering::Relaxed);
        if abandoned {
            RunFolder::remove_provisional();
        }
        abandoned
    })?;
    let mut trainer = args.open(&interrupt)?;
    begun.store(true, Ordering::Relaxed);
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

/// All that can be checked without loading the models, whose memory bounds the length of prompts.
fn dry_run(file: &Path, args: &LearnArgs) -> Result<ExitCode> {
    let config = TrainConfig::load(file, &args.overrides)?;
    if let Some(folder) = &args.run_dir {
        RunFolder::check_free(folder)?;
    }
    let text = TextModel::of(&config.engine)?;
    config.engine.check_text(&text)?;
    let prompts = Prompts::read(&config.prompts, &text)?;
    for warning in prompts.warnings() {
        note!("ltd-train: warning: {warning}");
    }
    if let Some(replay) = &config.replay
        && (replay.trace.is_some() || replay.latency.is_some())
    {
        check_given(replay, &config, &prompts, &config.engine.models()?)?;
    }
    print_result(format_args!("{}", describe(&config, text.stop_tokens())))?;
    Ok(ExitCode::SUCCESS)
}

impl LearnArgs {
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
    text + &json_text(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_disturbed_says_how_it_goes_on() {
        let run = Path::new("runs/quickstart-20260131-235959");
        let disturbed = unfinished(ltd_run::Error::Disturbed("verify: too slow".to_owned()).into(), run);
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
