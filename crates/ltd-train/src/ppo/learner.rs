//! A policy that learns: networks, optimiser, random streams and counters, all of which a checkpoint keeps.

use std::collections::HashMap;
use std::path::Path;

use ltd_env::{Env, Step, stream};
use ltd_policy::{Mlp, write_atomically};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::actor_critic::ActorCritic;
use super::adam::Adam;
use super::collect::{Episodes, Rollout};
use super::config::PpoConfig;
use super::rollout_buffer::RolloutBuffer;
use super::schedule::learning_rate;
use super::update::{UpdateStats, random_orders, update};
use crate::{Error, Result};

/// PPO for one policy.
pub struct Learner {
    config: PpoConfig,
    networks: ActorCritic,
    adam: Adam,
    actions: ChaCha8Rng,
    minibatches: ChaCha8Rng,
    episodes: Episodes,
    observation: Vec<f32>,
    timesteps: usize,
    epochs: usize,
    begun: bool,
}

/// What is saved besides tensors.
#[derive(Serialize, Deserialize)]
struct Counters {
    episodes: Episodes,
    timesteps: usize,
    epochs: usize,
    adam_steps: i64,
    begun: bool,
    /// Positions of the random streams (128-bit, hence text).
    actions: String,
    minibatches: String,
}

const COUNTERS: &str = "counters";

impl Learner {
    /// Fresh networks for an environment's observations and actions. `name` tells the streams of several learners
    /// of one run apart.
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
            timesteps: 0,
            epochs: 0,
            begun: false,
            config,
        }
    }

    /// Continues from another learner's networks, with fresh optimiser, counters and streams.
    pub fn start_from(&self, other: &Learner) {
        tch::no_grad(|| {
            for (parameter, source) in self.networks.parameters().iter_mut().zip(other.networks.parameters())
            {
                parameter.copy_(&source);
            }
        });
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &PpoConfig {
        &self.config
    }

    /// Steps taken.
    pub fn timesteps(&self) -> usize {
        self.timesteps
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

    /// The observation that is due, `[observation]`: an environment restored from a checkpoint writes it here.
    pub fn pending_observation(&mut self) -> &mut [f32] {
        &mut self.observation
    }

    /// Takes one rollout.
    pub fn collect(
        &mut self,
        env: &mut dyn Env,
        observer: &mut dyn FnMut(usize, &Step),
    ) -> ltd_env::Result<RolloutBuffer> {
        if !self.begun {
            env.reset(&mut self.observation)?;
            self.begun = true;
        }
        let mlp = self.mlp();
        let Self { config, observation, episodes, actions, networks, .. } = self;
        let rollout = Rollout::collect(env, &mlp, config.n_steps, observation, episodes, actions, observer)?;
        self.timesteps += config.n_steps;
        Ok(rollout.finish(config, networks, observation, episodes.at_start()))
    }

    /// Learns from a rollout; `progress` is the share of the stage that is over.
    pub fn update(&mut self, buffer: &RolloutBuffer, progress: f64) -> UpdateStats {
        let rate = learning_rate(&self.config, progress);
        let orders = random_orders(buffer, &mut self.minibatches);
        let stats = update(&self.config, &self.networks, &mut self.adam, buffer, rate, orders);
        self.epochs += stats.epochs;
        stats
    }

    /// Writes everything but the environment: complete, or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let counters = Counters {
            episodes: self.episodes.clone(),
            timesteps: self.timesteps,
            epochs: self.epochs,
            adam_steps: self.adam.steps(),
            begun: self.begun,
            actions: self.actions.get_word_pos().to_string(),
            minibatches: self.minibatches.get_word_pos().to_string(),
        };
        let counters = serde_json::to_string(&counters).expect("invariant: counters are plain data");
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors()
            .into_iter()
            .map(|(name, tensor)| {
                let values: Vec<f32> = Vec::try_from(tensor.detach().contiguous().view(-1))
                    .expect("invariant: parameters are f32 on the CPU");
                let shape = tensor.size().iter().map(|&size| size as usize).collect();
                (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("invariant: shapes come from the tensors"))
        });
        let bytes = safetensors::serialize(views, Some(HashMap::from([(COUNTERS.to_owned(), counters)])))
            .expect("invariant: names are unique");
        Ok(write_atomically(path, &bytes)?)
    }

    /// Reads what [`Learner::save`] wrote into a learner of the same shape.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let broken = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let counters = metadata.metadata().as_ref().and_then(|entries| entries.get(COUNTERS));
        let counters = counters.ok_or_else(|| broken("has no counters".to_owned()))?;
        let counters: Counters = serde_json::from_str(counters).map_err(|error| broken(error.to_string()))?;
        let position =
            |text: &str| text.parse().map_err(|_| broken(format!("`{text}` is no stream position")));
        let (actions, minibatches) = (position(&counters.actions)?, position(&counters.minibatches)?);
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        for (name, mut tensor) in self.tensors() {
            let view = file.tensor(&name).map_err(|error| broken(error.to_string()))?;
            let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            if view.dtype() != Dtype::F32 || shape != tensor.size() {
                let expected = tensor.size();
                return Err(broken(format!(
                    "{name} has shape {shape:?}, this configuration needs {expected:?}"
                )));
            }
            let values = Tensor::f_from_data_size(view.data(), &shape, tch::Kind::Float)?;
            tch::no_grad(|| tensor.copy_(&values));
        }
        self.adam.set_steps(counters.adam_steps);
        self.actions.set_word_pos(actions);
        self.minibatches.set_word_pos(minibatches);
        self.episodes = counters.episodes;
        self.timesteps = counters.timesteps;
        self.epochs = counters.epochs;
        self.begun = counters.begun;
        Ok(())
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.networks.named_parameters();
        tensors.extend(
            self.adam.named_tensors().into_iter().map(|(name, tensor)| (name, tensor.shallow_clone())),
        );
        tensors
    }
}
