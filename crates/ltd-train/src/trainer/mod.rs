//! A run from its configuration to policies: stages, checkpoints, validation, the final
//! comparison.

mod checkpoint;
mod environment;
mod finale;
mod imitation;
mod pair;
mod predictor;
mod ranks;
mod recorded;
mod selection;
mod stage;
mod validate;

use std::path::Path;
use std::rc::Rc;

use ltd_distributed::Group;
use ltd_engine::text::TextModel;
use ltd_engine::{Engine, StopRule};
use ltd_run::Interrupt;

use checkpoint::Checkpoint;
pub(crate) use pair::Pair;
pub(crate) use ranks::{Ranks, check_devices};
pub(crate) use recorded::check_given;

use crate::Result;
use crate::evaluate::Arena;
use crate::metrics::Metrics;
use crate::recorded::Recorded;
use crate::run::{Beginning, Provenance, RunFolder};
use ltd_run::Progress;
use ltd_run::config::{Stage, StageTask, TrainConfig};
use ltd_run::prompts::Prompts;

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
    /// All processes of the run; each has a trainer.
    group: Rc<Group>,
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

impl Trainer {
    /// Starts a run in a new folder.
    pub fn create(
        config: TrainConfig,
        folder: &Path,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let ranks = Ranks::alone(progress, interrupt);
        Self::begin(config, RunFolder::reserve(folder)?, ranks)
    }

    /// Starts a run in a folder that is called `folder`, with a number after it if there is one
    /// already.
    pub fn create_unique(
        config: TrainConfig,
        folder: &Path,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let ranks = Ranks::alone(progress, interrupt);
        Self::begin(config, RunFolder::reserve_unique(folder)?, ranks)
    }

    /// Goes on with a run that was interrupted.
    pub fn resume(folder: &Path, progress: Progress, interrupt: Interrupt) -> Result<Self> {
        Self::go_on(folder, Ranks::alone(progress, interrupt))
    }

    /// Starts a run in a folder that was reserved for it, with all ranks: the first one has the
    /// folder, the others follow it.
    pub(crate) fn begin(config: TrainConfig, run: RunFolder, ranks: Ranks) -> Result<Self> {
        ranks
            .progress
            .say(&format!("run folder {0}; curves: tensorboard --logdir {0}", run.path().display()));
        ranks.check_shared(run.path())?;
        let (group, folder) = (Rc::clone(&ranks.group), run.path().to_owned());
        let mut trainer = Self::prepare(config, run, Checkpoint::default(), None, ranks)?;
        // Last: an attempt that failed so far leaves no run behind. Nobody writes before it.
        group.from_first("the beginning of the run", || {
            trainer.run.begin(&trainer.config, &trainer.provenance)?;
            ranks::note_folder(&group, &folder)
        })?;
        Ok(trainer)
    }

    /// Goes on with a run that was interrupted, with as many ranks.
    pub(crate) fn go_on(folder: &Path, ranks: Ranks) -> Result<Self> {
        let (run, config) = ranks.open(folder)?;
        let beginning = Beginning::read(&run)?;
        let (config, changes) = beginning.goes_on_with(config, &run)?;
        for change in changes {
            ranks.progress.say(&change);
        }
        let checkpoint = ranks.group.from_first("the checkpoint", || Checkpoint::read(&run))?;
        let trainer = Self::prepare(config, run, checkpoint, Some(&beginning), ranks)?;
        if trainer.group.leads() {
            for stage in &trainer.plan[..trainer.checkpoint.finished_stages.min(trainer.plan.len())] {
                trainer.run.stage(stage).remove_candidates()?;
            }
        }
        Ok(trainer)
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        self.run.path()
    }

    fn prepare(
        config: TrainConfig,
        run: RunFolder,
        checkpoint: Checkpoint,
        beginning: Option<&Beginning>,
        ranks: Ranks,
    ) -> Result<Self> {
        let text = TextModel::of(&config.engine)?;
        let engine = ranks.open_engine(&config, &text)?;
        let Ranks { group, progress, interrupt, .. } = ranks;
        let prompts = Prompts::load(&config.prompts, &text, &engine)?;
        for warning in prompts.warnings() {
            progress.say(&format!("warning: {warning}"));
        }
        let provenance = Provenance::collect(&config, &engine, &prompts, text.eos())?;
        if let Some(beginning) = beginning {
            beginning.check(&provenance, &config, &run)?;
        }
        group.agree("models, prompts and machines", &provenance.facts())?;
        progress.say(&format!("{}, dtype {}", provenance.device_text(), engine.dtype()));
        for warning in engine.warnings() {
            progress.say(&format!("warning: {warning}"));
        }
        if let Some(replay) = &config.replay {
            recorded::check_given(replay, &config, &prompts, &provenance.models(engine.beam_width()))?;
        }
        let plan = config.plan();
        let finished = &plan[..checkpoint.finished_stages.min(plan.len())];
        let pair = match finished.iter().rev().find(|stage| leaves_a_pair(stage)) {
            Some(last) => Pair::load(&run.stage(last))?,
            None => Pair::constant(config.evaluation.default),
        };
        // A finished run goes on with nothing.
        let length = if run.summary_md().is_file() { u64::MAX } else { checkpoint.curves };
        let curves = if group.leads() {
            Metrics::open(&run.metrics(), length, run.path())?
        } else {
            Metrics::nowhere()
        };
        Ok(Self {
            group,
            plan,
            curves,
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
        let finished = self.finish();
        if let Some(warning) = self.engine.late_warning() {
            self.progress.say(&format!("warning: {warning}"));
        }
        match finished {
            Ok(summary) => Ok(Ending::Finished { summary }),
            Err(error) if error.is_interrupt() => Ok(self.interrupted()),
            Err(error) => Err(error),
        }
    }

    /// Recordings, stages and the final comparison, as Markdown.
    fn finish(&mut self) -> Result<String> {
        self.ready_recordings()?;
        while self.checkpoint.finished_stages < self.plan.len() {
            self.run_stage()?;
        }
        self.compare()
    }

    fn interrupted(&self) -> Ending {
        if self.config.replay.is_some() && self.recorded.is_none() {
            return Ending::Interrupted { place: "the recording".to_owned() };
        }
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
            group: &self.group,
        }
    }

    /// Notes on disk where the run stands; the first rank does.
    fn write_checkpoint(&mut self) -> Result<()> {
        if !self.group.leads() {
            return Ok(());
        }
        self.checkpoint.curves = self.curves.length();
        self.checkpoint.write(&self.run)
    }
}

/// Whether a stage leaves a pair of policies.
fn leaves_a_pair(stage: &Stage) -> bool {
    !matches!(stage.task, StageTask::Predictor(_))
}
