//! A policy that learns: networks, optimiser, random streams and counters, all of which a snapshot
//! keeps.

use ltd_env::{Env, Step, stream};
use ltd_policy::{Linear, Mlp};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::actor_critic::ActorCritic;
use super::adam::Adam;
use super::collect::{Actor, Episodes, Rollout, Steps};
use super::rollout_buffer::RolloutBuffer;
use super::schedule::learning_rate;
use super::update::{UpdateStats, random_orders, update};
use ltd_run::config::{Advantage, PpoConfig};

/// PPO for one policy.
pub struct Learner {
    config: PpoConfig,
    networks: ActorCritic,
    adam: Adam,
    actions: ChaCha8Rng,
    minibatches: ChaCha8Rng,
    episodes: Episodes,
    observation: Vec<f32>,
    n_actions: usize,
    /// The rollout under way: an interruption may come in the middle of one.
    rollout: Rollout,
    /// The policy as it acts, made anew after each update.
    acting: Option<Actor>,
    updated_timesteps: usize,
    epochs: usize,
    begun: bool,
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
    episodes: Episodes,
    rollout: Steps,
    updated_timesteps: usize,
    epochs: usize,
    adam_steps: i64,
    begun: bool,
    /// Positions of the random streams (128-bit, hence text).
    actions: String,
    minibatches: String,
}

const ROLLOUT_OBSERVATIONS: &str = "rollout.observations";
const ROLLOUT_ACTION_VALUES: &str = "rollout.action_values";

impl Learner {
    /// Fresh networks for an environment's observations and actions. `name` tells the streams of
    /// several learners of one run apart.
    pub fn new(observation_len: usize, n_actions: usize, config: PpoConfig, seed: u64, name: &str) -> Self {
        let mut init = stream(seed, &format!("{name} init"));
        let networks = ActorCritic::new(observation_len, n_actions, &config.net_arch, &mut init);
        Self {
            adam: Adam::new(&networks.parameters(), config.adam_eps),
            networks,
            actions: stream(seed, &format!("{name} actions")),
            minibatches: stream(seed, &format!("{name} minibatches")),
            episodes: Episodes::default(),
            observation: vec![0.0; observation_len],
            n_actions,
            rollout: Rollout::default(),
            acting: None,
            updated_timesteps: 0,
            epochs: 0,
            begun: false,
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
        self.updated_timesteps + self.rollout.len()
    }

    /// Epochs made, which Stable-Baselines3 calls updates.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// Gradient steps made.
    pub fn gradient_steps(&self) -> i64 {
        self.adam.steps()
    }

    /// The latest episodes.
    pub fn episodes(&self) -> &Episodes {
        &self.episodes
    }

    /// The policy as serving evaluates it.
    pub fn mlp(&self) -> Mlp {
        self.networks.to_mlp()
    }

    /// The observation that is due, `[observation]`: an environment restored from a checkpoint
    /// writes it here.
    pub fn pending_observation(&mut self) -> &mut [f32] {
        &mut self.observation
    }

    /// Whether a rollout was begun that nothing was learned from yet.
    pub fn in_rollout(&self) -> bool {
        self.rollout.len() > 0
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
    pub fn fill_rollout(
        &mut self,
        env: &mut dyn Env,
        observer: &mut dyn FnMut(&Step),
        interrupted: &dyn Fn() -> bool,
    ) -> ltd_env::Result<bool> {
        if !self.begun {
            env.reset(&mut self.observation)?;
            self.begun = true;
        }
        let Self { observation, episodes, actions, networks, rollout, .. } = self;
        let actor = self.acting.get_or_insert_with(|| Actor::new(networks.to_mlp()));
        while rollout.len() < self.config.n_steps {
            let step = rollout.step(&self.config, env, actor, observation, episodes, actions)?;
            observer(&step);
            if interrupted() && rollout.len() < self.config.n_steps {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The full rollout with its advantages, to be learned from.
    pub fn finish_rollout(&mut self) -> RolloutBuffer {
        let rollout = std::mem::take(&mut self.rollout);
        self.updated_timesteps += rollout.len();
        rollout.finish(&self.config, &self.networks, &self.observation, self.episodes.at_start())
    }

    /// Learns from a rollout; `progress` is the share of the stage that is over. Nothing if
    /// `interrupted` says so on the way: then the learner is of no further use, and a snapshot of
    /// before is where learning goes on.
    pub fn update(
        &mut self,
        buffer: &RolloutBuffer,
        progress: f64,
        interrupted: &dyn Fn() -> bool,
    ) -> Option<UpdateStats> {
        let rate = learning_rate(&self.config, progress);
        let orders = random_orders(buffer, &mut self.minibatches);
        let stats = update(&self.config, &self.networks, &mut self.adam, buffer, rate, orders, interrupted)?;
        self.epochs += stats.epochs;
        self.acting = None;
        Some(stats)
    }

    /// Everything but the environment.
    pub fn snapshot(&self) -> Snapshot {
        let mut tensors = self.networks.named_parameters();
        tensors.extend(self.adam.named_tensors());
        // Learning goes on in place.
        for (_, tensor) in &mut tensors {
            *tensor = tensor.detach().copy();
        }
        for (name, values) in [
            (ROLLOUT_OBSERVATIONS, &self.rollout.observations),
            (ROLLOUT_ACTION_VALUES, &self.rollout.action_values),
        ] {
            tensors.push((name.to_owned(), Tensor::from_slice(values)));
        }
        let counters = Counters {
            episodes: self.episodes.clone(),
            rollout: self.rollout.steps.clone(),
            updated_timesteps: self.updated_timesteps,
            epochs: self.epochs,
            adam_steps: self.adam.steps(),
            begun: self.begun,
            actions: self.actions.get_word_pos().to_string(),
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
        let position = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a stream position"));
        self.actions.set_word_pos(position(&counters.actions)?);
        self.minibatches.set_word_pos(position(&counters.minibatches)?);
        copy(&snapshot.tensors, self.networks.named_parameters())?;
        copy(&snapshot.tensors, self.adam.named_tensors())?;
        let table = |name, columns: usize| {
            let values = Vec::<f32>::try_from(find(&snapshot.tensors, name)?);
            let values = values.map_err(|error| format!("{name}: {error}"))?;
            let steps = counters.rollout.len();
            let fits = values.len() == steps * columns;
            fits.then_some(values).ok_or_else(|| format!("{name} does not fit {steps} steps"))
        };
        let valued = if self.config.advantage == Advantage::Exact { self.n_actions } else { 0 };
        self.rollout = Rollout {
            observations: table(ROLLOUT_OBSERVATIONS, self.observation.len())?,
            action_values: table(ROLLOUT_ACTION_VALUES, valued)?,
            steps: counters.rollout,
        };
        self.adam.set_steps(counters.adam_steps);
        self.episodes = counters.episodes;
        self.updated_timesteps = counters.updated_timesteps;
        self.epochs = counters.epochs;
        self.begun = counters.begun;
        self.acting = None;
        Ok(())
    }

    /// Takes over a policy without its value function; says what differs if it has another shape.
    pub fn start_from_policy(&mut self, layers: &[Linear]) -> Result<(), String> {
        self.acting = None;
        self.networks.copy_policy_from(layers)
    }

    /// Takes over the networks of a snapshot; optimiser, counters and streams stay fresh.
    pub fn start_from(&mut self, tensors: &[(String, Tensor)]) -> Result<(), String> {
        self.acting = None;
        copy(tensors, self.networks.named_parameters())
    }
}

fn find<'t>(tensors: &'t [(String, Tensor)], name: &str) -> Result<&'t Tensor, String> {
    let found = tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor);
    found.ok_or_else(|| format!("{name} is missing"))
}

fn copy(from: &[(String, Tensor)], into: Vec<(String, Tensor)>) -> Result<(), String> {
    for (name, mut tensor) in into {
        let source = find(from, &name)?;
        let (found, expected) = (source.size(), tensor.size());
        if found != expected {
            return Err(format!("{name} has shape {found:?}, this configuration needs {expected:?}"));
        }
        tch::no_grad(|| tensor.copy_(source));
    }
    Ok(())
}
