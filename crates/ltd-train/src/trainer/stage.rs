//! One stage: rollouts, updates, snapshots.

use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::CycleStats;
use ltd_env::{Env, Step};
use ltd_policy::{FrozenPolicy, PolicyKind};

use super::Trainer;
use super::checkpoint::StageState;
use crate::metrics::rollout_record;
use crate::ppo::{Learner, RolloutBuffer};
use crate::run::{StageFolder, TensorFile};
use crate::{Error, Result};
use ltd_run::config::{PolicyTask, Stage, StageTask};
use ltd_run::progress::Task;

/// Time between checkpoints.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// Observations kept with a frozen policy, to check copies of it.
const PROBES: usize = 32;
/// Rollouts over which lambda should have settled.
const LATEST_LAMBDAS: usize = 10;
/// Among the snapshots, the policy that a stage began with.
pub(super) const INCUMBENT: &str = "incumbent";

impl Trainer {
    /// Runs the stage that is due, from wherever it stands.
    pub(super) fn run_stage(&mut self) -> Result<()> {
        let stage = self.plan[self.checkpoint.finished_stages].clone();
        let folder = self.run.stage(&stage);
        folder.create()?;
        let trained = self.checkpoint.under_way.as_ref().is_some_and(|state| state.trained);
        let task = match &stage.task {
            StageTask::Predictor(predictor) => return self.fit_predictor(&stage, predictor, &folder),
            StageTask::Imitation(imitation) => return self.imitate(&stage, *imitation, &folder),
            StageTask::Policy(task) => *task,
        };
        if !trained {
            let mut training = Training::begin(self, &stage, task, &folder)?;
            training.run()?;
            training.save(true)?;
        }
        self.validate(&stage, task, &folder)
    }
}

/// A stage while it trains.
struct Training<'t> {
    trainer: &'t mut Trainer,
    stage: &'t Stage,
    task: PolicyTask,
    folder: &'t StageFolder,
    learner: Learner,
    env: Box<dyn Env>,
    /// Cycles of the rollout under way.
    cycles: CycleStats,
    candidates: Vec<String>,
    /// What `gain` compared with after each rollout of this process, tokens per second.
    lambdas: Vec<f64>,
    /// Time the stage took before this process.
    earlier: Duration,
    started: Instant,
}

impl<'t> Training<'t> {
    /// Readies a stage: anew, or where its checkpoint left it.
    fn begin(
        trainer: &'t mut Trainer,
        stage: &'t Stage,
        task: PolicyTask,
        folder: &'t StageFolder,
    ) -> Result<Self> {
        let mut env = trainer.environment(&stage.name, task)?;
        let (ppo, seed) = (trainer.ppo(task), trainer.config.seed);
        let mut learner = Learner::new(env.observation_len(), env.n_actions(), ppo, seed, &stage.name);
        let (mut cycles, mut candidates, mut earlier) = (CycleStats::default(), Vec::new(), Duration::ZERO);
        if let Some(state) = &trainer.checkpoint.under_way {
            state.restore(&mut learner, &trainer.run)?;
            env.restore(state.env.clone(), learner.pending_observation())?;
            cycles = state.cycles.clone();
            candidates.clone_from(&state.candidates);
            earlier = Duration::from_secs_f64(state.seconds);
        } else if let Some(incumbent) = trainer.incumbent(task.kind)? {
            match &incumbent.networks {
                Some(networks) => learner.start_from(networks),
                None => learner.start_from_policy(&incumbent.policy.mlp().to_layers()),
            }
            .map_err(|problem| Error::Checkpoint { path: incumbent.path, problem })?;
            let tensors = learner.networks().named_parameters();
            TensorFile { tensors, state: serde_json::Value::Null }
                .write(&folder.candidate_networks(INCUMBENT))?;
            incumbent.policy.save(&folder.candidate_policy(INCUMBENT))?;
            candidates.push(INCUMBENT.to_owned());
        }
        let started = Instant::now();
        let lambdas = Vec::new();
        Ok(Self { trainer, stage, task, folder, learner, env, cycles, candidates, lambdas, earlier, started })
    }

    fn elapsed(&self) -> Duration {
        self.earlier + self.started.elapsed()
    }

    /// The share of the stage that is over, by steps or by time, whichever is more.
    fn share(&self) -> f64 {
        share(self.stage, self.task, self.learner.timesteps(), self.elapsed())
    }

    /// Learns to the end of the stage. Where it fails because it is interrupted, the checkpoint
    /// says where it stands.
    fn run(&mut self) -> Result<()> {
        self.trainer.curves.begin_stage(&self.stage.name, self.folder.path())?;
        let mut task = self.trainer.progress.task(&self.stage.name, self.task.total_timesteps);
        let mut last_checkpoint = Instant::now();
        let mut progress = self.share();
        let at_start = progress;
        // At least one rollout: there must be something to keep.
        while self.learner.in_rollout()
            || progress < 1.0
            || self.candidates.iter().all(|candidate| candidate == INCUMBENT)
        {
            match self.fill_rollout(&mut task, at_start) {
                Ok(true) => {}
                Ok(false) => return self.interrupted(),
                // What the other policies decide leaves nothing to learn: what there is stays.
                Err(Error::Env(
                    error @ (ltd_env::Error::NoTree { .. } | ltd_env::Error::NothingToCopy { .. }),
                )) if !self.candidates.is_empty() => {
                    task.finish(&format!("ends after {} steps: {error}", self.learner.timesteps()));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            progress = self.share();
            // Where the run goes on if it is interrupted, or what comes of the rollout cannot be
            // written.
            let before = self.state(false);
            let kept = match self.finish_rollout(progress) {
                Ok(kept) => kept,
                Err(error) => {
                    self.trainer.checkpoint.under_way = Some(before);
                    // On a full disk there may be no room for this either: then the run goes on
                    // where it was saved last.
                    let _ = self.trainer.write_checkpoint();
                    return Err(error);
                }
            };
            if kept || last_checkpoint.elapsed() >= CHECKPOINT_INTERVAL {
                self.save(false)?;
                last_checkpoint = Instant::now();
            }
            if progress < 1.0 && self.trainer.interrupt.requested() {
                return self.interrupted();
            }
        }
        let reward = self.learner.episodes().mean_reward();
        let reward = reward.map_or("no cycle ended".to_owned(), |reward| format!("mean reward {reward:.3}"));
        task.finish(&format!("{} steps, {reward}{}", self.learner.timesteps(), settled(&self.lambdas)));
        Ok(())
    }

    /// Takes the steps of one rollout, shown as they go; says whether it is full, not if it was
    /// interrupted.
    fn fill_rollout(&mut self, task: &mut Task, at_start: f64) -> Result<bool> {
        let interrupt = self.trainer.interrupt.clone();
        let (stage, policy, earlier, started) = (self.stage, self.task, self.earlier, self.started);
        let mut timesteps = self.learner.timesteps();
        let reward = self.learner.episodes().mean_reward();
        let reward = reward.map_or_else(String::new, |reward| format!("reward {reward:.3}  "));
        let cycles = &mut self.cycles;
        let mut observer = |step: &Step| {
            timesteps += 1;
            if let Some(outcome) = &step.outcome {
                cycles.add(outcome);
            }
            let share = share(stage, policy, timesteps, earlier + started.elapsed()).min(1.0);
            let rate = cycles.tokens_per_second();
            let rate = if rate > 0.0 { format!("{rate:.1} tokens/s") } else { String::new() };
            let message = format!("{reward}{rate}");
            task.update(timesteps, (share - at_start) / (1.0 - at_start), &message);
        };
        Ok(self.learner.fill_rollout(self.env.as_mut(), &mut observer, &|| interrupt.requested())?)
    }

    /// Learns from a full rollout, and notes what comes of it; says whether a snapshot was kept.
    fn finish_rollout(&mut self, progress: f64) -> Result<bool> {
        let buffer = self.learner.finish_rollout();
        let interrupt = &self.trainer.interrupt;
        let update = self.learner.update(&buffer, progress.min(1.0), &|| interrupt.requested());
        let update = update.ok_or(ltd_env::Error::Interrupted)?;
        if !update.grad_norm.is_finite() {
            let (stage, timesteps) = (self.stage.name.clone(), self.learner.timesteps());
            return Err(Error::Diverged { stage, timesteps });
        }
        let cycles = std::mem::take(&mut self.cycles);
        let lambda = self.env.lambda();
        self.lambdas.extend(lambda);
        let record =
            rollout_record(&self.stage.name, &self.learner, &cycles, &update, lambda, self.elapsed());
        self.trainer.curves.write(record)?;
        self.keep_candidate(progress, &buffer)
    }

    /// Keeps a snapshot each time another part of the stage is over.
    fn keep_candidate(&mut self, progress: f64, buffer: &RolloutBuffer) -> Result<bool> {
        let parts = self.trainer.config.stages.candidates;
        let part = ((progress.min(1.0) * parts as f64 + 1e-9).floor() as usize).to_string();
        if part == "0" || self.candidates.contains(&part) {
            return Ok(false);
        }
        let stride = buffer.len().div_ceil(PROBES);
        let probes = (0..buffer.len()).step_by(stride).map(|row| buffer.observations.row(row).to_vec());
        let kind = self.task.kind;
        let (layout, actions) = (self.trainer.config.layout(kind), self.trainer.actions(kind)?);
        let policy = FrozenPolicy::new(layout, actions, self.learner.mlp(), probes.collect());
        policy.save(&self.folder.candidate_policy(&part))?;
        let tensors = self.learner.networks().named_parameters();
        TensorFile { tensors, state: serde_json::Value::Null }
            .write(&self.folder.candidate_networks(&part))?;
        self.candidates.push(part);
        Ok(true)
    }

    /// Where the stage stands.
    fn state(&self, trained: bool) -> StageState {
        let (env, seconds) = (self.env.state(), self.elapsed().as_secs_f64());
        let (cycles, candidates) = (self.cycles.clone(), self.candidates.clone());
        StageState::new(&self.learner, env, cycles, seconds, candidates, trained)
    }

    /// Saves what there is, and ends.
    fn interrupted(&mut self) -> Result<()> {
        self.save(false)?;
        Err(ltd_env::Error::Interrupted.into())
    }

    /// Writes the run's checkpoint.
    fn save(&mut self, trained: bool) -> Result<()> {
        self.trainer.checkpoint.under_way = Some(self.state(trained));
        self.trainer.write_checkpoint()
    }
}

fn share(stage: &Stage, task: PolicyTask, timesteps: usize, elapsed: Duration) -> f64 {
    let by_steps = timesteps as f64 / task.total_timesteps as f64;
    let by_time = stage.max_time.map_or(0.0, |limit| elapsed.as_secs_f64() / limit.as_secs_f64());
    by_steps.max(by_time)
}

/// Where lambda stands, and how far it moved at last: it is found by iteration.
fn settled(lambdas: &[f64]) -> String {
    let latest = &lambdas[lambdas.len().saturating_sub(LATEST_LAMBDAS)..];
    let Some(last) = latest.last() else { return String::new() };
    let (low, high) =
        latest.iter().fold((*last, *last), |(low, high), &lambda| (low.min(lambda), high.max(lambda)));
    let (moved, rollouts) = ((high - low) / last * 100.0, count(latest.len(), "rollout"));
    format!(", lambda {last:.1} tokens/s, within {moved:.1} % over the last {rollouts}")
}

/// A policy that goes on learning in another stage.
struct Incumbent {
    policy: FrozenPolicy,
    /// Policy and value function; nothing if no value function was learned.
    networks: Option<Vec<(String, tch::Tensor)>>,
    path: std::path::PathBuf,
}

impl Trainer {
    /// The policy that a stage goes on with, if an earlier one left any.
    fn incumbent(&self, kind: PolicyKind) -> Result<Option<Incumbent>> {
        let finished = &self.plan[..self.checkpoint.finished_stages];
        let last = finished.iter().rev().find(|finished| finished.leaves(kind));
        let (Some(policy), Some(last)) = (self.pair.learned(kind), last) else { return Ok(None) };
        let folder = self.run.stage(last);
        let path = if last.policy().is_some() { folder.networks() } else { folder.manifest() };
        let networks = last.policy().is_some().then(|| TensorFile::read(&path)).transpose()?;
        let networks = networks.map(|file| file.tensors);
        Ok(Some(Incumbent { policy: policy.clone(), networks, path }))
    }
}
