//! One stage: rollouts, updates, snapshots.

mod rollout;

use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_distributed::Traffic;
use ltd_engine::CycleStats;
use ltd_policy::{FrozenPolicy, PolicyKind};

use super::checkpoint::{RankState, StageState};
use super::environment::Envs;
use super::{Pair, Trainer, leaves_a_pair};
use crate::metrics::{RankPace, rollout_record};
use crate::ppo::{Delivery, Learner, RolloutBuffer};
use crate::run::{StageFolder, TensorFile};
use crate::{Error, Result};
use ltd_run::config::{PolicyTask, Stage, StageTask};
use rollout::Asked;

/// Time between checkpoints at most.
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
        if self.group.leads() {
            folder.create()?;
        }
        let trained = self.checkpoint.under_way.as_ref().is_some_and(|state| state.trained);
        match &stage.task {
            // What is quick the first rank does by itself.
            StageTask::Predictor(predictor) if self.group.leads() => {
                self.fit_predictor(&stage, predictor, &folder)?;
            }
            StageTask::Imitation(imitation) if self.group.leads() => {
                self.imitate(&stage, *imitation, &folder)?;
            }
            StageTask::Predictor(_) | StageTask::Imitation(_) => {}
            StageTask::Policy(task) => {
                if !trained {
                    let mut training = Training::begin(self, &stage, *task, &folder)?;
                    training.run()?;
                    if training.trainer.group.leads() {
                        training.save(true)?;
                    }
                    self.follow("the end of training")?;
                }
                self.validate(&stage, *task, &folder)?;
            }
        }
        self.follow("the end of a stage")?;
        if !self.group.leads() && leaves_a_pair(&stage) {
            self.pair = Pair::load(&folder)?;
        }
        Ok(())
    }
}

/// A stage while it trains.
struct Training<'t> {
    trainer: &'t mut Trainer,
    stage: &'t Stage,
    task: PolicyTask,
    folder: &'t StageFolder,
    learner: Learner,
    envs: Envs,
    /// Where the other ranks stood after the last rollout; at the first rank.
    ranks: Vec<RankState>,
    candidates: Vec<String>,
    /// What `gain` compared with after each rollout of this process, tokens per second.
    lambdas: Vec<f64>,
    /// Time the stage took before this process.
    earlier: Duration,
    started: Instant,
    checkpoints: Checkpoints,
}

impl<'t> Training<'t> {
    /// Readies a stage: anew, or where its checkpoint left it.
    fn begin(
        trainer: &'t mut Trainer,
        stage: &'t Stage,
        task: PolicyTask,
        folder: &'t StageFolder,
    ) -> Result<Self> {
        let (ppo, seed, rank) = (trainer.ppo(task), trainer.config.seed, trainer.group.rank());
        let numbers = rank * ppo.n_envs..(rank + 1) * ppo.n_envs;
        let mut envs = trainer.environments(&stage.name, task, numbers.clone())?;
        let (inputs, outputs) = envs.shape();
        let mut learner = Learner::of_envs(inputs, outputs, ppo, seed, &stage.name, numbers);
        let (mut ranks, mut candidates, mut earlier) = (Vec::new(), Vec::new(), Duration::ZERO);
        if let Some(state) = &trainer.checkpoint.under_way {
            let wrong = |problem| Error::Checkpoint { path: trainer.run.checkpoint(), problem };
            let (before, now) = (state.ranks.len() + 1, trainer.group.size());
            if before != now {
                let problem = format!(
                    "stage {} was begun with {}, now there are {now}: start as many",
                    stage.name,
                    count(before, "rank")
                );
                return Err(wrong(problem));
            }
            let states = match rank.checked_sub(1).map(|other| &state.ranks[other]) {
                None => {
                    state.restore(&mut learner, &trainer.run)?;
                    &state.envs
                }
                Some(RankState { collectors, envs }) => {
                    learner.restore_collectors(collectors.clone()).map_err(wrong)?;
                    envs
                }
            };
            let (found, expected) = (states.len(), learner.n_envs());
            if found != expected {
                return Err(wrong(format!("it has {found} environments, this configuration has {expected}")));
            }
            envs.restore(states, &mut learner)?;
            ranks.clone_from(&state.ranks);
            candidates.clone_from(&state.candidates);
            earlier = Duration::from_secs_f64(state.seconds);
        } else if trainer.group.leads()
            && let Some(incumbent) = trainer.incumbent(task.kind)?
        {
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
        let (started, lambdas, checkpoints) = (Instant::now(), Vec::new(), Checkpoints::new());
        Ok(Self {
            trainer,
            stage,
            task,
            folder,
            learner,
            envs,
            ranks,
            candidates,
            lambdas,
            earlier,
            started,
            checkpoints,
        })
    }

    fn elapsed(&self) -> Duration {
        self.earlier + self.started.elapsed()
    }

    /// The share of the stage that is over, by steps or by time, whichever is more.
    fn share(&self) -> f64 {
        share(self.stage, self.task, self.learner.timesteps(), self.elapsed())
    }

    /// Learns to the end of the stage. Where it fails, or is interrupted, the checkpoint says where
    /// it stands.
    fn run(&mut self) -> Result<()> {
        self.trainer.curves.begin_stage(&self.stage.name, self.folder.path())?;
        let mut task = self.trainer.progress.task(&self.stage.name, self.task.total_timesteps);
        let mut progress = self.share();
        let at_start = progress;
        let (mut ended, mut rollouts, traffic) = (None, 0, self.trainer.group.traffic());
        loop {
            // At least one rollout: there must be something to keep.
            let fresh = self.candidates.iter().all(|candidate| candidate == INCUMBENT);
            let due = ended.is_none() && (self.learner.in_rollout() || progress < 1.0 || fresh);
            // Where the run goes on if a rank fails before the next one: before the first one, the
            // stage begins anew.
            let before = (!self.ranks.is_empty()).then(|| self.mark());
            let (deliveries, unlearned) = match self.rollout(due, &mut task, at_start) {
                Ok(Asked::Over) => break,
                Ok(Asked::Elsewhere) => continue,
                Ok(Asked::Here { deliveries, unlearned }) => (deliveries, unlearned),
                Err(error) => return Err(self.kept(before, error)),
            };
            let first_ended = deliveries
                .iter()
                .enumerate()
                .find_map(|(rank, delivery)| delivery.ended.as_ref().map(|reason| (rank, reason.clone())));
            // What the other policies decide leaves nothing to learn: what there is stays.
            if let Some((rank, reason)) = first_ended {
                if self.candidates.is_empty() {
                    let error = ltd_distributed::Error::Failed { rank, reason, usage: false };
                    return Err(self.kept(before, error.into()));
                }
                ended = Some(reason);
                continue;
            }
            rollouts += 1;
            let steps: usize = deliveries.iter().map(Delivery::steps).sum();
            progress = share(self.stage, self.task, self.learner.timesteps() + steps, self.elapsed());
            match self.learn_from(deliveries, progress) {
                Ok(kept) if kept || self.checkpoints.are_due() => self.save(false)?,
                Ok(_) => {}
                Err(error) => return Err(self.kept(before.or(unlearned), error)),
            }
            if progress < 1.0 && self.trainer.interrupt.requested() {
                self.save(false)?;
                return Err(ltd_env::Error::Interrupted.into());
            }
        }
        if let Some(reason) = ended {
            task.finish(&format!("ends after {} steps: {reason}", self.learner.timesteps()));
        } else {
            let reward = self.learner.episodes();
            let reward =
                reward.map_or("no cycle ended".to_owned(), |(reward, _)| format!("mean reward {reward:.3}"));
            let said = told(self.trainer.group.traffic(), traffic, rollouts);
            let lambda = settled(&self.lambdas);
            task.finish(&format!("{} steps, {reward}{lambda}{said}", self.learner.timesteps()));
        }
        Ok(())
    }

    /// Learns from a full rollout, and notes what comes of it; says whether a snapshot was kept.
    fn learn_from(&mut self, deliveries: Vec<Delivery>, progress: f64) -> Result<bool> {
        let paces: Vec<RankPace> = deliveries
            .iter()
            .map(|delivery| RankPace { steps: delivery.steps(), seconds: delivery.seconds })
            .collect();
        let lambdas: Option<Vec<f64>> = deliveries.iter().map(|delivery| delivery.lambda).collect();
        let lambda = lambdas.map(|lambdas| lambdas.iter().sum::<f64>() / lambdas.len() as f64);
        let cycles = deliveries.iter().flat_map(|delivery| &delivery.reports).map(|report| &report.cycles);
        let cycles = CycleStats::merged(cycles);
        let states = deliveries.iter().skip(1).map(|delivery| RankState {
            collectors: delivery.reports.iter().map(|report| report.state.clone()).collect(),
            envs: delivery.envs.clone(),
        });
        self.ranks = states.collect();
        let reports = deliveries.into_iter().flat_map(|delivery| delivery.reports).collect();
        let buffer = self.learner.finish_reports(reports);
        let interrupt = &self.trainer.interrupt;
        let update = self.learner.update(&buffer, progress.min(1.0), &|| interrupt.requested());
        let update = update.ok_or(ltd_env::Error::Interrupted)?;
        if !update.grad_norm.is_finite() {
            let (stage, timesteps) = (self.stage.name.clone(), self.learner.timesteps());
            return Err(Error::Diverged { stage, timesteps });
        }
        self.lambdas.extend(lambda);
        let record =
            rollout_record(&self.stage.name, &self.learner, &cycles, &update, lambda, &paces, self.elapsed());
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
        let (envs, seconds) = (self.envs.states(), self.elapsed().as_secs_f64());
        let (ranks, candidates) = (self.ranks.clone(), self.candidates.clone());
        StageState::new(&self.learner, envs, ranks, seconds, candidates, trained)
    }

    /// The same for the case that something fails: quickly made, as there is one per rollout.
    fn mark(&self) -> Mark {
        Mark { learner: Box::new(self.learner.clone()), envs: self.envs.states(), ranks: self.ranks.clone() }
    }

    /// Has the run go on from `before` when it does, if that is known, and gives the error on.
    fn kept(&mut self, before: Option<Mark>, error: Error) -> Error {
        if let Some(Mark { learner, envs, ranks }) = before {
            let (seconds, candidates) = (self.elapsed().as_secs_f64(), self.candidates.clone());
            let before = StageState::new(&learner, envs, ranks, seconds, candidates, false);
            self.trainer.checkpoint.under_way = Some(before);
            // On a full disk there may be no room for this: then the run goes on where it was saved
            // last.
            let _ = self.trainer.write_checkpoint();
        }
        error
    }

    /// Writes the run's checkpoint.
    fn save(&mut self, trained: bool) -> Result<()> {
        self.trainer.checkpoint.under_way = Some(self.state(trained));
        let begun = Instant::now();
        self.trainer.write_checkpoint()?;
        self.checkpoints = Checkpoints { last: Instant::now(), cost: begun.elapsed() };
        Ok(())
    }
}

/// Where a stage stood.
struct Mark {
    learner: Box<Learner>,
    envs: Vec<serde_json::Value>,
    ranks: Vec<RankState>,
}

/// When checkpoints are written.
struct Checkpoints {
    last: Instant,
    /// How long the last one took.
    cost: Duration,
}

impl Checkpoints {
    /// Share of the time that they may take.
    const SHARE: f64 = 0.02;

    /// The first one is due at once: it tells what they cost.
    fn new() -> Self {
        Self { last: Instant::now(), cost: Duration::ZERO }
    }

    fn are_due(&self) -> bool {
        self.last.elapsed() >= CHECKPOINT_INTERVAL.min(self.cost.div_f64(Self::SHARE))
    }
}

fn share(stage: &Stage, task: PolicyTask, timesteps: usize, elapsed: Duration) -> f64 {
    let by_steps = timesteps as f64 / task.total_timesteps as f64;
    let by_time = stage.max_time.map_or(0.0, |limit| elapsed.as_secs_f64() / limit.as_secs_f64());
    by_steps.max(by_time)
}

/// What ranks said to each other in each rollout, if there are several.
fn told(now: Traffic, before: Traffic, rollouts: u64) -> String {
    let messages = now.sent + now.received - before.sent - before.received;
    let bytes = now.bytes_sent + now.bytes_received - before.bytes_sent - before.bytes_received;
    if messages == 0 || rollouts == 0 {
        return String::new();
    }
    let kilobytes = bytes as f64 / 1e3 / rollouts as f64;
    format!(", {} messages per rollout at rank 0, {kilobytes:.1} kB in all", messages / rollouts)
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
