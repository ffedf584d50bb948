//! What a run on recorded cycles learns from.

use std::path::Path;

use ltd_env::Scatter;
use ltd_env::trace::{Shard, Trace};
use ltd_policy::{DepthActions, LatencyTable, Models, PolicyKind, SizeActions};

use super::Trainer;
use crate::recorded::Recorded;
use crate::{Error, Result};
use ltd_run::config::{Backend, Counterpart, Minutes, PolicyTask, ReplayConfig, Stage, TrainConfig};
use ltd_run::prompts::{Prompts, questions, shared};
use ltd_run::recording::{Recording, collect, measure_latency, record};

/// Positions whose trees are recorded at the same time.
const RECORDING_BATCH: usize = 8;
/// Cycles per verification size and context length in a round of the measurement.
const LATENCY_REPEATS: usize = 7;

impl Trainer {
    /// Records trees and measures this machine, unless the configuration names what was recorded
    /// and measured before.
    pub(super) fn ready_recordings(&mut self) -> Result<()> {
        let Some(replay) = self.config.replay.clone() else { return Ok(()) };
        let trace = replay.trace.unwrap_or_else(|| self.run.trace());
        let latency = replay.latency.unwrap_or_else(|| self.run.latency());
        let models = self.provenance.models(self.engine.beam_width());
        let recorded_here = trace == self.run.trace();
        if recorded_here && !self.checkpoint.recorded {
            // Several ranks record a part each.
            let (ranks, shards) = (self.group.size(), self.run.shards(self.group.size()));
            let shard = (ranks > 1).then_some(Shard { index: self.group.rank(), count: ranks });
            let seeds = (0..replay.seeds as u64).map(|number| self.config.seed.wrapping_add(number));
            let seeds: Vec<u64> = seeds.collect();
            let recording = Recording {
                set: &self.config.prompts.train,
                prompts: &self.prompts.train,
                out: if shard.is_some() { &shards } else { &trace },
                shard,
                batch: RECORDING_BATCH,
                every: 1,
                entropies: false,
                hidden: false,
                states: false,
                sampling: self.config.sampling,
                seeds: &seeds,
                max_time: replay.max_minutes.map(Minutes::duration),
            };
            let (config, progress) = (&self.config, self.progress);
            record(&recording, config, &self.engine, &models, &self.eos, progress, &self.interrupt)?;
            self.group.barrier("the recording")?;
            if ranks > 1 && self.group.leads() {
                collect(&shards, ranks, &trace, &self.interrupt)?;
            }
            self.checkpoint.recorded = true;
            self.write_checkpoint()?;
        }
        let shards = self.run.shards(self.group.size());
        if self.group.leads() && shards.exists() {
            std::fs::remove_dir_all(&shards).map_err(|source| Error::Io { path: shards, source })?;
        }
        // What is timed on the first rank's device counts for all, which are of one kind.
        if latency == self.run.latency() && self.group.leads() && !latency.is_file() {
            let (config, engine, progress) = (&self.config, &self.engine, self.progress);
            let table = measure_latency(config, engine, &models, LATENCY_REPEATS, progress, &self.interrupt)?;
            table.write(&latency)?;
        }
        self.group.barrier("recordings")?;
        let read = read_trace(&trace, &self.config, &models)?;
        let table = read_table(&latency, longest_context(&read), &self.config, &models)?;
        let here = self.engine.conditions(self.config.sampling);
        let differences = table.identity.conditions().differences(&here);
        if !differences.is_empty() {
            let (latency, differences) = (latency.display(), differences.join(", "));
            self.progress.say(&format!(
                "warning: {latency} was measured with {differences}: policies learn for there, and are compared here"
            ));
        }
        self.note_recordings([read.identity()?, table.sha256()], [&trace, &latency])?;
        let mut recorded =
            Recorded::new(&trace, &read, table, replay.held_out, &self.group, &self.interrupt)?;
        recorded.scatter = replay.noise.then(|| Scatter::of(&recorded.table));
        self.progress.say(&format!(
            "recorded  {} positions of {} prompts to learn from, {} of {} held out",
            recorded.train.positions(),
            recorded.train.prompts(),
            recorded.held_out.positions(),
            recorded.held_out.prompts(),
        ));
        self.recorded = Some(recorded);
        Ok(())
    }

    /// Notes which trace and which table, in these places, the run learns from, and fails if it
    /// began with others.
    fn note_recordings(&mut self, found: [String; 2], [trace, latency]: [&Path; 2]) -> Result<()> {
        match &self.checkpoint.recordings {
            None => {
                self.checkpoint.recordings = Some(found);
                self.write_checkpoint()
            }
            Some(known) if *known == found => Ok(()),
            Some(_) => {
                let (trace, latency) = (trace.display(), latency.display());
                let problem =
                    format!("the run was begun with other recordings than are now in {trace} and {latency}");
                Err(Error::Checkpoint { path: self.run.checkpoint(), problem })
            }
        }
    }
}

/// Fails early if what the configuration names cannot be learned from.
pub(crate) fn check_given(
    replay: &ReplayConfig,
    config: &TrainConfig,
    prompts: &Prompts,
    models: &Models,
) -> Result<()> {
    let mut longest = 0;
    if let Some(path) = &replay.trace {
        let trace = read_trace(path, config, models)?;
        check_apart(&trace, path, prompts)?;
        longest = longest_context(&trace);
        Recorded::split(path, &trace, replay.held_out)?;
    }
    if let Some(latency) = &replay.latency {
        read_table(latency, longest, config, models)?;
    }
    Ok(())
}

fn problem(path: &Path, problem: &str) -> Error {
    Error::Recorded(format!("{}: {problem}", path.display()))
}

/// Reads a trace and checks that it is of these models, decoded in the same way, and reaches as far
/// as the configuration.
fn read_trace(path: &Path, config: &TrainConfig, models: &Models) -> Result<Trace> {
    let trace = Trace::read_replayable(path).map_err(|error| Error::Recorded(error.to_string()))?;
    let header = &trace.header;
    header.models().check(path, "this run", models)?;
    let (depth, deepest) = (header.depth, deepest(config));
    if depth < deepest {
        return Err(problem(path, &format!("its trees are {depth} deep, this run asks for {deepest}")));
    }
    if !header.sampling.is_as(&config.sampling) {
        let (found, expected) = (header.sampling, config.sampling);
        let needed = "record it again, or change `sampling`";
        return Err(problem(
            path,
            &format!("its continuations are of sampling {found}, this run asks for {expected}: {needed}"),
        ));
    }
    if trace.positions() == 0 {
        return Err(problem(path, "it has no position to learn from"));
    }
    if config.source.merged.is_some() && !header.has_candidates() && chooses_source(config) {
        let needed = "it lacks the tokens of the candidates (it is older than version 3), which source.merged \
                      needs: record it into another folder, or set source.merged to null";
        return Err(problem(path, needed));
    }
    Ok(trace)
}

/// Reads a table and checks that it is of these models and covers what is asked for.
fn read_table(
    path: &Path,
    longest_context: usize,
    config: &TrainConfig,
    models: &Models,
) -> Result<LatencyTable> {
    let table = LatencyTable::read(path).map_err(|error| Error::Recorded(error.to_string()))?;
    table.identity.models().check(path, "this run", models)?;
    let depths = DepthActions { max_depth: deepest(config), ..config.depth.actions };
    let missing = table.covers(&depths, &SizeActions { sizes: sizes(config) }, longest_context);
    match missing.first() {
        Some(first) => Err(problem(path, first)),
        None => Ok(table),
    }
}

fn longest_context(trace: &Trace) -> usize {
    trace.outlines().map(|sequence| sequence.prompt_len + sequence.len()).max().unwrap_or(0)
}

/// The tasks that learn from recorded cycles.
fn recorded_tasks(config: &TrainConfig) -> impl Iterator<Item = PolicyTask> {
    let tasks = config.plan().into_iter().filter_map(|stage| stage.policy());
    tasks.filter(|task| task.backend == Backend::Replay)
}

/// Whether a stage learns what to draft from.
fn chooses_source(config: &TrainConfig) -> bool {
    let by_predictor = config.stages.predictor.as_ref().is_some_and(|stage| stage.source);
    let plan = config.plan();
    let mut tasks = plan.iter().filter_map(Stage::policy);
    by_predictor || tasks.any(|task| task.kind == PolicyKind::Source)
}

/// The deepest tree of any stage.
fn deepest(config: &TrainConfig) -> usize {
    let drawn = recorded_tasks(config).filter_map(|task| match task.counterpart {
        Counterpart::RandomDepth(range) => Some(range.max),
        Counterpart::FixedSize(_) | Counterpart::Frozen => None,
    });
    drawn.chain([config.depth.actions.max_depth, config.evaluation.default.depth]).max().unwrap_or(0)
}

/// Every size that may be asked for, ascending.
fn sizes(config: &TrainConfig) -> Vec<usize> {
    let fixed = config.stages.depth.as_ref().map(|stage| stage.verification_size);
    let mut sizes = config.size.sizes.sizes.clone();
    sizes.extend(fixed.into_iter().chain([config.evaluation.default.size]));
    sizes.extend(config.source.chains.iter().filter(|chain| **chain > 0));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Fails if a recorded prompt is one that policies are measured on.
fn check_apart(trace: &Trace, path: &Path, prompts: &Prompts) -> Result<()> {
    let recorded = || {
        // Each prompt once, however many continuations it has.
        let mut last = None;
        let prompts = trace.outlines().filter(move |one| last.replace(one.prompt) != Some(one.prompt));
        prompts.map(|one| (&one.tokens[..one.prompt_len], one.prompt.to_string()))
    };
    for (name, measured) in [("validation", &prompts.validation), ("evaluation", &prompts.evaluation)] {
        if let Some(shared) = shared(recorded(), questions(measured)) {
            let shared = format!("{} has {shared} of prompts.{name}", path.display());
            return Err(ltd_run::Error::SharedPrompts(shared).into());
        }
    }
    Ok(())
}
