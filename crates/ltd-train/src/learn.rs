//! `ltd-train` itself: a run from its configuration to its comparison.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use ltd_console::{note, print_result, say};
use ltd_distributed::Launch;
use ltd_engine::text::{StopToken, TextModel};
use ltd_policy::json_text;
use ltd_run::interrupt::listen_unless;
use ltd_run::prompts::Prompts;
use ltd_run::{Interrupt, Progress, TrainConfig};

use crate::run::{Beginning, RunFolder, timestamp};
use crate::trainer::{Ranks, check_given};
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
    /// Go on with the run in --run-dir if it was begun: for launchers that start a command again
    #[arg(long, requires = "run_dir")]
    auto_resume: bool,
    /// Let several ranks of this machine time their cycles on one device, where they disturb each
    /// other
    #[arg(long)]
    share_device: bool,
    /// Check the configuration and print the plan, then stop
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
}

/// Trains, or with `--dry-run` says what would be done.
pub(crate) fn learn(args: &LearnArgs) -> Result<ExitCode> {
    if let (Some(file), true) = (&args.config, args.dry_run) {
        // One rank says it for all of them.
        return match Launch::from_environment()? {
            Some(Launch { rank: 1.., .. }) => Ok(ExitCode::SUCCESS),
            _ => dry_run(file, args),
        };
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
    let launch = Launch::from_environment()?;
    // The others are told why this rank goes.
    begun.store(launch.is_some(), Ordering::Relaxed);
    let (ranks, config) = args.ranks(launch.as_ref(), &interrupt)?;
    let group = Rc::clone(&ranks.group);
    let learned = args.learn(config, ranks, &begun);
    // Who was interrupted because others are gone says so.
    let learned = match (learned, group.lost()) {
        (Ok((Ending::Interrupted { .. }, folder)), Some(lost)) => Err(unfinished(lost.into(), &folder)),
        (Err(error), Some(lost)) if error.is_interrupt() => Err(lost.into()),
        (learned, _) => learned,
    };
    // The others learn why, if this one fails.
    let stopped = ltd_env::Error::Interrupted.into();
    let why = match &learned {
        Ok((Ending::Interrupted { .. }, _)) => Some(&stopped),
        Ok((Ending::Finished { .. }, _)) => None,
        Err(error) => Some(error),
    };
    group.leave(why.map(|error| error as _));
    let (ending, folder) = learned.map_err(|error| match group.size() {
        1 => error,
        _ => Error::OfRank { rank: group.rank(), source: Box::new(error) },
    })?;
    if group.leads() {
        tell(&ending, &folder)?;
    }
    Ok(match ending {
        Ending::Finished { .. } => ExitCode::SUCCESS,
        Ending::Interrupted { .. } => ExitCode::from(ltd_console::INTERRUPTED),
    })
}

/// Says how a run ended, and what comes next.
fn tell(ending: &Ending, folder: &Path) -> Result<()> {
    let folder = folder.display();
    match ending {
        Ending::Finished { summary } => {
            say!("\n{summary}")?;
            note!("freeze the policies: ltd-export --run {folder} --out policies");
        }
        Ending::Interrupted { place } => {
            note!("interrupted at {place}; go on with: ltd-train --resume {folder}");
        }
    }
    Ok(())
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
    /// The processes of the run, this one or those that a launcher started, and the configuration
    /// of a new run.
    fn ranks(&self, launch: Option<&Launch>, interrupt: &Interrupt) -> Result<(Ranks, Option<TrainConfig>)> {
        let (interrupt, progress) = (interrupt.clone(), Progress::detect());
        // The folder of a run that goes on has its configuration.
        let config = self.config.as_ref().map(|file| Ok(TrainConfig::load(file, &self.overrides)?));
        let Some(launch) = launch else {
            return Ok((Ranks::alone(progress, interrupt), config.transpose()?));
        };
        let ranks = Ranks::join(launch, config.as_ref(), progress, interrupt);
        let ranks = match (config, ranks) {
            (Some(Err(error)), Ok(ranks)) => {
                ranks.group.leave(Some(&error));
                Err(error)
            }
            (Some(Err(error)), Err(_)) => Err(error),
            (config, ranks) => ranks.map(|ranks| (ranks, config.and_then(Result::ok))),
        };
        ranks.map_err(|error| Error::OfRank { rank: launch.rank, source: Box::new(error) })
    }

    /// Runs what is to be run, and says in which folder.
    fn learn(
        &self,
        config: Option<TrainConfig>,
        ranks: Ranks,
        begun: &AtomicBool,
    ) -> Result<(Ending, PathBuf)> {
        let mut trainer = self.open(config, ranks)?;
        begun.store(true, Ordering::Relaxed);
        let ending = trainer.learn().map_err(|error| unfinished(error, trainer.folder()))?;
        Ok((ending, trainer.folder().to_owned()))
    }

    /// Begins a run, or goes on with one.
    fn open(&self, config: Option<TrainConfig>, ranks: Ranks) -> Result<Trainer> {
        if let Some(run) = &self.resume {
            return self.go_on(run, ranks);
        }
        let both = "invariant: clap asks for one of both";
        let (file, config) = (self.config.as_ref().expect(both), config.expect(both));
        self.check_devices(&ranks, &config)?;
        // Where a launcher starts its ranks again, they find the run that the first ones began.
        let earlier = ranks.earlier_folder()?;
        let begun = earlier.or_else(|| self.run_dir.clone().filter(|_| self.auto_resume));
        let begun =
            || Ok::<_, Error>(begun.as_deref().filter(|folder| RunFolder::is_begun(folder)).map(absolute));
        if let Some(folder) = ranks.group.from_first("whether the run goes on", begun)? {
            check_same(&folder, config)?;
            return self.go_on(&folder, ranks);
        }
        if !ranks.group.leads() {
            let unknown = || Ok::<_, Error>(PathBuf::new());
            let folder = ranks.group.from_first("the run's folder", unknown)?;
            return Trainer::begin(config, RunFolder::of_other_rank(&folder), ranks);
        }
        let run = match &self.run_dir {
            Some(folder) => RunFolder::reserve(folder)?,
            None => RunFolder::reserve_unique(&default_folder(file))?,
        };
        ranks.group.from_first("the run's folder", || Ok::<_, Error>(absolute(run.path())))?;
        Trainer::begin(config, run, ranks)
    }

    fn go_on(&self, run: &Path, ranks: Ranks) -> Result<Trainer> {
        if ranks.group.size() > 1 {
            let (_, config) = RunFolder::follow(run)?;
            self.check_devices(&ranks, &config)?;
        }
        Trainer::go_on(run, ranks).map_err(|error| unfinished(error, run))
    }

    fn check_devices(&self, ranks: &Ranks, config: &TrainConfig) -> Result<()> {
        if self.share_device { Ok(()) } else { ranks.check_devices(config) }
    }
}

/// Says how a run goes on that failed, unless it would fail again: the input must be changed first.
fn unfinished(error: Error, run: &Path) -> Error {
    if error.is_usage() || error.is_empty_handed() {
        return error;
    }
    Error::Unfinished { run: run.to_owned(), source: Box::new(error) }
}

/// A folder wherever a process works.
fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// Fails if the run in a folder cannot go on with a configuration.
fn check_same(folder: &Path, config: TrainConfig) -> Result<()> {
    let (run, _) = RunFolder::follow(folder)?;
    Beginning::read(&run)?.goes_on_with(config, &run)?;
    Ok(())
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
