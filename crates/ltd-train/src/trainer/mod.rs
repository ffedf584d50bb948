//! A run from its configuration to two policies: stages, checkpoints, validation, the final comparison.

mod checkpoint;
mod environment;
mod finale;
mod imitation;
mod pair;
mod predictor;
mod recorded;
mod selection;
mod stage;
mod validate;

use std::path::Path;
use std::rc::Rc;

use ltd_engine::text::TextModel;
use ltd_engine::{Engine, StopRule};
use ltd_policy::ModelIdentity;

use checkpoint::Checkpoint;
use pair::Pair;

use crate::config::TrainConfig;
use crate::evaluate::Arena;
use crate::interrupt::Interrupt;
use crate::metrics::{self, Metrics, Record};
use crate::plan::{Stage, StageTask};
use crate::progress::Progress;
use crate::prompts::Prompts;
use crate::recording::Recorded;
use crate::run::{Provenance, RunFolder};
use crate::{Error, Result};

/// A run under way.
pub struct Trainer {
    config: TrainConfig,
    plan: Vec<Stage>,
    run: RunFolder,
    provenance: Provenance,
    engine: Rc<Engine>,
    eos: Vec<u32>,
    prompts: Prompts,
    /// In place of live cycles, once they were recorded.
    recorded: Option<Recorded>,
    progress: Progress,
    interrupt: Interrupt,
    /// Policies as the last finished stage left them.
    pair: Pair,
    checkpoint: Checkpoint,
    /// Curves of the whole run; each stage has its own.
    curves: Metrics,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With a comparison, as Markdown.
    Finished {
        /// The comparison.
        summary: String,
    },
    /// By an interrupt; the run can be resumed.
    Interrupted {
        /// Where it stands, in words.
        place: String,
    },
}

/// A part of a run is over, or the user wants to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Done,
    Interrupted,
}

impl Trainer {
    /// Starts a run in a new folder.
    pub fn create(
        config: TrainConfig,
        folder: &Path,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let run = RunFolder::reserve(folder)?;
        let trainer = Self::prepare(config, run, Checkpoint::default(), progress, interrupt)?;
        // Last: an attempt that failed so far leaves no run behind.
        trainer.run.begin(&trainer.config, &trainer.provenance)?;
        Ok(trainer)
    }

    /// Goes on with a run that was interrupted.
    pub fn resume(folder: &Path, progress: Progress, interrupt: Interrupt) -> Result<Self> {
        let (run, config) = RunFolder::open(folder)?;
        let checkpoint = Checkpoint::read(&run)?;
        let (target, draft) = Provenance::read_models(&run.provenance())?;
        rewind_metrics(&run, &config.plan(), &checkpoint)?;
        let trainer = Self::prepare(config, run, checkpoint, progress, interrupt)?;
        trainer.check_model("target", &target, &trainer.provenance.target)?;
        trainer.check_model("draft", &draft, &trainer.provenance.draft)?;
        Ok(trainer)
    }

    fn prepare(
        config: TrainConfig,
        run: RunFolder,
        checkpoint: Checkpoint,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
        let engine = Engine::load(&config.engine)?;
        engine.check_text(&text)?;
        let prompts = Prompts::load(&config.prompts, &text, &engine)?;
        let provenance = Provenance::collect(&config, &engine)?;
        progress.say(&format!("{}, dtype {}", provenance.device_text(), engine.dtype()));
        if let Some(replay) = &config.replay {
            recorded::check_given(replay, &config, &prompts, &provenance.models(engine.beam_width()))?;
        }
        let plan = config.plan();
        let finished = &plan[..checkpoint.finished_stages.min(plan.len())];
        let leaves_a_pair = |stage: &&Stage| !matches!(stage.task, StageTask::Predictor(_));
        let pair = match finished.iter().rev().find(leaves_a_pair) {
            Some(last) => Pair::load(&run.stage(last))?,
            None => Pair::constant(config.evaluation.default),
        };
        Ok(Self {
            plan,
            curves: Metrics::open(&run.metrics(), run.path())?,
            run,
            provenance,
            engine: Rc::new(engine),
            eos: text.eos().to_vec(),
            prompts,
            recorded: None,
            progress,
            interrupt,
            pair,
            checkpoint,
            config,
        })
    }

    /// Runs what is left of the run.
    pub fn learn(&mut self) -> Result<Ending> {
        if self.ready_recordings()? == Flow::Interrupted {
            return Ok(Ending::Interrupted { place: "the recording".to_owned() });
        }
        while self.checkpoint.finished_stages < self.plan.len() {
            if self.run_stage()? == Flow::Interrupted {
                return Ok(self.interrupted());
            }
        }
        match self.compare()? {
            Some(summary) => Ok(Ending::Finished { summary }),
            None => Ok(self.interrupted()),
        }
    }

    fn interrupted(&self) -> Ending {
        let place = match self.plan.get(self.checkpoint.finished_stages) {
            Some(stage) => {
                let done = self.checkpoint.under_way.as_ref().map_or(0, |state| state.timesteps);
                let total = stage.policy().map_or(0, |task| task.total_timesteps);
                format!("stage {}, {done} of {total} steps", stage.name)
            }
            None => "the final comparison".to_owned(),
        };
        Ending::Interrupted { place }
    }

    fn arena(&self) -> Arena<'_> {
        let stop = StopRule { max_new_tokens: self.config.evaluation.max_new_tokens, eos: self.eos.clone() };
        Arena {
            engine: &self.engine,
            stop,
            sampler: self.sampler("measurement"),
            costs: self.recorded.as_ref().map(|recorded| &recorded.costs),
            interrupt: &self.interrupt,
            progress: self.progress,
        }
    }

    fn check_model(&self, what: &str, expected: &ModelIdentity, found: &ModelIdentity) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        let path = self.run.path().to_owned();
        let problem = format!(
            "was begun with another {what}: {} (SHA-256 {}), now {} ({})",
            expected.name, expected.sha256, found.name, found.sha256
        );
        Err(Error::RunFolder { path, problem })
    }
}

/// Drops the records of steps that will be taken again.
fn rewind_metrics(run: &RunFolder, plan: &[Stage], checkpoint: &Checkpoint) -> Result<()> {
    let (finished, rest) = plan.split_at(checkpoint.finished_stages.min(plan.len()));
    let current = rest.first().map(|stage| stage.name.as_str());
    let reached = checkpoint.under_way.as_ref().map_or(0, |state| state.timesteps);
    metrics::rewind(&run.metrics(), |record: &Record| {
        if record.stage.is_empty() {
            record.timesteps <= checkpoint.finished_timesteps
        } else if Some(record.stage.as_str()) == current {
            record.timesteps <= reached
        } else {
            finished.iter().any(|stage| stage.name == record.stage)
        }
    })
}
