//! A policy that learns: networks, optimiser, random streams and counters, all of which a snapshot
//! keeps.

use ltd_engine::CycleStats;
use ltd_env::{Env, Step, stream};
use ltd_policy::{Linear, Mlp};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::actor_critic::ActorCritic;
use super::adam::Adam;
use super::collect::Actor;
use super::collector::{Collector, CollectorState, Report};
use super::delivery::Widths;
use super::rollout_buffer::RolloutBuffer;
use super::schedule::learning_rate;
use super::tensors::find;
use super::update::{UpdateStats, random_orders, update};
use ltd_run::config::{Advantage, PpoConfig};

/// PPO for one policy.
#[derive(Clone)]
pub struct Learner {
    config: PpoConfig,
    networks: ActorCritic,
    adam: Adam,
    minibatches: ChaCha8Rng,
    /// One for each of this rank's environments.
    collectors: Vec<Collector>,
    n_actions: usize,
    /// The policy as it acts, made anew after each update.
    acting: Option<Mlp>,
    updated_timesteps: usize,
    epochs: usize,
    /// Mean reward and length of the latest episodes of all environments, if any ended.
    episodes: Option<(f64, f64)>,
}

/// All that a learner's future depends on, the environment apart.
#[derive(Debug)]
pub struct Snapshot {
    /// Tensors by name.
    pub tensors: Vec<(String, Tensor)>,
    /// Everything else.
    pub counters: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Counters {
    collectors: Vec<CollectorState>,
    updated_timesteps: usize,
    epochs: usize,
    adam_steps: i64,
    episodes: Option<(f64, f64)>,
    /// Position of the random stream (128-bit, hence text).
    minibatches: String,
}

/// Names of the tables of a collector's part of the rollout.
fn tables(number: usize) -> [String; 2] {
    ["observations", "action_values"].map(|table| format!("rollout.{number}.{table}"))
}

impl Learner {
    /// Fresh networks for an environment's observations and actions. `name` tells the streams of
    /// several learners of one run apart.
    pub fn new(observation_len: usize, n_actions: usize, config: PpoConfig, seed: u64, name: &str) -> Self {
        Self::of_envs(observation_len, n_actions, config, seed, name, 0..1)
    }

    /// The same with several environments, which take the steps of a rollout side by side. `envs`
    /// are their numbers among those of all ranks.
    pub(crate) fn of_envs(
        observation_len: usize,
        n_actions: usize,
        config: PpoConfig,
        seed: u64,
        name: &str,
        envs: std::ops::Range<usize>,
    ) -> Self {
        let mut init = stream(seed, &format!("{name} init"));
        let networks = ActorCritic::new(observation_len, n_actions, &config.net_arch, &mut init);
        Self {
            adam: Adam::new(&networks, config.adam_eps),
            networks,
            minibatches: stream(seed, &format!("{name} minibatches")),
            collectors: envs.map(|number| Collector::new(observation_len, seed, name, number)).collect(),
            n_actions,
            acting: None,
            updated_timesteps: 0,
            epochs: 0,
            episodes: None,
            config,
        }
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &PpoConfig {
        &self.config
    }

    /// The policy and the value function.
    pub fn networks(&self) -> &ActorCritic {
        &self.networks
    }

    /// Steps taken, those of an unfinished rollout included.
    pub fn timesteps(&self) -> usize {
        self.updated_timesteps
            + self.collectors.iter().map(|collector| collector.rollout.len()).sum::<usize>()
    }

    /// Epochs made, which Stable-Baselines3 calls updates.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// Gradient steps made.
    pub fn gradient_steps(&self) -> i64 {
        self.adam.steps()
    }

    /// Mean reward and mean length of the latest 100 episodes of each environment, as of the last
    /// full rollout; nothing before one ended.
    pub fn episodes(&self) -> Option<(f64, f64)> {
        self.episodes
    }

    /// Numbers per step.
    pub(crate) fn widths(&self) -> Widths {
        let values = if self.config.advantage == Advantage::Exact { self.n_actions } else { 0 };
        Widths { observation: self.collectors[0].observation.len(), n_actions: self.n_actions, values }
    }

    /// Environments of this rank.
    pub(crate) fn n_envs(&self) -> usize {
        self.collectors.len()
    }

    /// The policy as serving evaluates it.
    pub fn mlp(&self) -> Mlp {
        self.networks.to_mlp()
    }

    /// The observation that is due, `[observation]`: an environment restored from a checkpoint
    /// writes it here.
    pub fn pending_observation(&mut self) -> &mut [f32] {
        self.pending_observation_of(0)
    }

    /// The same of one of several environments.
    pub(crate) fn pending_observation_of(&mut self, env: usize) -> &mut [f32] {
        &mut self.collectors[env].observation
    }

    /// Whether a rollout was begun that nothing was learned from yet.
    pub fn in_rollout(&self) -> bool {
        self.collectors.iter().any(|collector| collector.rollout.len() > 0)
    }

    /// Cycles of the rollout under way.
    pub(crate) fn cycles(&self) -> CycleStats {
        CycleStats::merged(self.collectors.iter().map(|collector| &collector.cycles))
    }

    /// A rollout to learn from, unless `interrupted` says so after a step: see
    /// [`Learner::fill_rollout`].
    pub fn collect(
        &mut self,
        env: &mut dyn Env,
        observer: &mut dyn FnMut(&Step),
        interrupted: &dyn Fn() -> bool,
    ) -> ltd_env::Result<Option<RolloutBuffer>> {
        Ok(self.fill_rollout(env, observer, interrupted)?.then(|| self.finish_rollout()))
    }

    /// Takes steps until the rollout is full, or until `interrupted` says so after a step: then it
    /// is not, and the next call goes on with the same rollout. `observer` sees each step.
    ///
    /// # Panics
    /// If the learner has several environments.
    pub fn fill_rollout(
        &mut self,
        env: &mut dyn Env,
        observer: &mut dyn FnMut(&Step),
        interrupted: &dyn Fn() -> bool,
    ) -> ltd_env::Result<bool> {
        let Self { config, networks, acting, collectors, .. } = self;
        let mut actor = Actor::new(acting.get_or_insert_with(|| networks.to_mlp()).clone());
        let [collector] = &mut collectors[..] else { panic!("one environment for several collectors") };
        collector.fill(config, config.n_steps, env, &mut actor, observer, interrupted)
    }

    /// The same in all environments at the same time, on as many threads as rayon has. Each takes
    /// its share of the steps, whatever their number of threads.
    pub(crate) fn fill_rollouts(
        &mut self,
        envs: &mut [Box<dyn Env + Send>],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> ltd_env::Result<bool> {
        let Self { config, networks, acting, collectors, .. } = self;
        let mlp = acting.get_or_insert_with(|| networks.to_mlp());
        let n_steps = config.n_steps / collectors.len();
        let (config, mlp) = (&*config, &*mlp);
        let filled = collectors.par_iter_mut().zip(envs).map(|(collector, env)| {
            let mut actor = Actor::new(mlp.clone());
            collector.fill(config, n_steps, env.as_mut(), &mut actor, &mut |_| (), interrupted)
        });
        // All of them first, as none may be half-way through a step; then the first error in order.
        let filled: Vec<ltd_env::Result<bool>> = filled.collect();
        let filled = filled.into_iter().collect::<ltd_env::Result<Vec<bool>>>()?;
        Ok(filled.into_iter().all(|full| full))
    }

    /// The full rollout with its advantages, to be learned from.
    pub fn finish_rollout(&mut self) -> RolloutBuffer {
        let reports = self.reports();
        self.finish_reports(reports)
    }

    /// The full rollout of this rank's environments, for whoever learns.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        self.collectors.iter_mut().map(Collector::report).collect()
    }

    /// The rollout that all ranks' environments have made, with its advantages.
    pub(crate) fn finish_reports(&mut self, reports: Vec<Report>) -> RolloutBuffer {
        let latest = || reports.iter().flat_map(|report| report.state.episodes.latest());
        let count = latest().count() as f64;
        let (reward, len) =
            latest().fold((0.0, 0.0), |(reward, len), episode| (reward + episode.0, len + episode.1 as f64));
        self.episodes = (count > 0.0).then(|| (reward / count, len / count));
        self.updated_timesteps += reports.iter().map(|report| report.rollout.len()).sum::<usize>();
        let (config, networks) = (&self.config, &self.networks);
        let parts = reports.into_par_iter().map(|report| {
            let starts = report.state.episodes.at_start();
            report.rollout.finish(config, networks, &report.next_observation, starts)
        });
        RolloutBuffer::concatenated(&parts.collect::<Vec<_>>())
    }

    /// Learns from a rollout; `progress` is the share of the stage that is over. Nothing if
    /// `interrupted` says so on the way: then the learner is of no further use, and a snapshot of
    /// before is where learning goes on.
    pub fn update(
        &mut self,
        buffer: &RolloutBuffer,
        progress: f64,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Option<UpdateStats> {
        let rate = learning_rate(&self.config, progress);
        let orders = random_orders(buffer, &mut self.minibatches);
        let stats =
            update(&self.config, &mut self.networks, &mut self.adam, buffer, rate, orders, interrupted)?;
        self.epochs += stats.epochs;
        self.acting = None;
        Some(stats)
    }

    /// Everything but the environment.
    pub fn snapshot(&self) -> Snapshot {
        let mut tensors = self.networks.named_parameters();
        tensors.extend(self.adam.named_tensors());
        for (number, collector) in self.collectors.iter().enumerate() {
            let [observations, action_values] = tables(number);
            for (name, values) in [
                (observations, &collector.rollout.observations),
                (action_values, &collector.rollout.action_values),
            ] {
                tensors.push((name, Tensor::from_slice(values)));
            }
        }
        let counters = Counters {
            collectors: self.collectors.iter().map(Collector::state).collect(),
            updated_timesteps: self.updated_timesteps,
            epochs: self.epochs,
            adam_steps: self.adam.steps(),
            episodes: self.episodes,
            minibatches: self.minibatches.get_word_pos().to_string(),
        };
        let counters = serde_json::to_value(counters).expect("invariant: counters are plain data");
        Snapshot { tensors, counters }
    }

    /// Returns to a snapshot of a learner of the same shape. On an error, which says what does not
    /// fit, the learner is of no further use.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let counters: Counters =
            serde_json::from_value(snapshot.counters.clone()).map_err(|error| error.to_string())?;
        let position = counters.minibatches.parse();
        let position =
            position.map_err(|_| format!("`{}` is not a stream position", counters.minibatches))?;
        self.minibatches.set_word_pos(position);
        self.networks.load(&snapshot.tensors)?;
        self.adam.load(&snapshot.tensors, counters.adam_steps)?;
        let (found, expected) = (counters.collectors.len(), self.collectors.len());
        if found != expected {
            return Err(format!("it has {found} environments, this configuration has {expected}"));
        }
        let widths = self.widths();
        for (number, (collector, state)) in self.collectors.iter_mut().zip(counters.collectors).enumerate() {
            let table = |name: &str, columns: usize| {
                let values = Vec::<f32>::try_from(find(&snapshot.tensors, name)?);
                let values = values.map_err(|error| format!("{name}: {error}"))?;
                let steps = state.rollout.len();
                let fits = values.len() == steps * columns;
                fits.then_some(values).ok_or_else(|| format!("{name} does not fit {steps} steps"))
            };
            let [observations, action_values] = tables(number);
            let (observations, action_values) =
                (table(&observations, widths.observation)?, table(&action_values, widths.values)?);
            collector.restore(state, observations, action_values)?;
        }
        self.episodes = counters.episodes;
        self.updated_timesteps = counters.updated_timesteps;
        self.epochs = counters.epochs;
        self.acting = None;
        Ok(())
    }

    /// Puts the collectors where they stood after a full rollout; says what does not fit.
    pub(crate) fn restore_collectors(&mut self, states: Vec<CollectorState>) -> Result<(), String> {
        let (found, expected) = (states.len(), self.collectors.len());
        if found != expected {
            return Err(format!("it has {found} environments, this configuration has {expected}"));
        }
        let mut pairs = self.collectors.iter_mut().zip(states);
        pairs.try_for_each(|(collector, state)| match state.rollout.len() {
            0 => collector.restore(state, Vec::new(), Vec::new()),
            steps => Err(format!("{steps} steps of a rollout are without their observations")),
        })
    }

    /// Takes over a policy without its value function; says what differs if it has another shape.
    pub fn start_from_policy(&mut self, layers: &[Linear]) -> Result<(), String> {
        self.acting = None;
        self.networks.copy_policy_from(layers)
    }

    /// Takes over the networks of a snapshot; optimiser, counters and streams stay fresh.
    pub fn start_from(&mut self, tensors: &[(String, Tensor)]) -> Result<(), String> {
        self.acting = None;
        self.networks.load(tensors)
    }
}
