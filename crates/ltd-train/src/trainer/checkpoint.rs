//! Where a run stands, on disk.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::ppo::{CollectorState, Learner, Snapshot};
use crate::run::{RunFolder, TensorFile};
use crate::{Error, Result};

/// Where a run stands.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Whether the run's own recording is complete.
    pub(super) recorded: bool,
    /// Identity of the trace and SHA-256 of the latency table that the run learns from.
    pub(super) recordings: Option<[String; 2]>,
    /// Stages whose policies are in their folders.
    pub(super) finished_stages: usize,
    /// Steps of those stages.
    pub(super) finished_timesteps: usize,
    /// Bytes of the curves' lines.
    pub(super) curves: u64,
    /// The stage that was begun.
    pub(super) under_way: Option<StageState>,
}

/// Where a stage stands.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StageState {
    /// Steps taken.
    pub(super) timesteps: usize,
    /// Time the stage took.
    pub(super) seconds: f64,
    /// Snapshots in the stage's folder.
    pub(super) candidates: Vec<String>,
    /// Whether only validation is left.
    pub(super) trained: bool,
    /// States of the first rank's environments.
    pub(super) envs: Vec<serde_json::Value>,
    /// Where the other ranks stand.
    pub(super) ranks: Vec<RankState>,
    /// Counters of the learner; its tensors are in the same file.
    learner: serde_json::Value,
    #[serde(skip)]
    tensors: Vec<(String, Tensor)>,
}

/// Where a rank stands that does not learn, after a rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RankState {
    pub(super) collectors: Vec<CollectorState>,
    pub(super) envs: Vec<serde_json::Value>,
}

impl Checkpoint {
    /// Reads the checkpoint of a run; a run without one stands at its beginning.
    pub(super) fn read(run: &RunFolder) -> Result<Self> {
        let path = run.checkpoint();
        if !path.is_file() {
            return Ok(Self::default());
        }
        let TensorFile { tensors, state } = TensorFile::read(&path)?;
        let mut checkpoint: Self = serde_json::from_value(state)
            .map_err(|error| Error::Checkpoint { path, problem: error.to_string() })?;
        if let Some(state) = &mut checkpoint.under_way {
            state.tensors = tensors;
        }
        Ok(checkpoint)
    }

    /// Writes the checkpoint: complete, or not at all.
    pub(super) fn write(&self, run: &RunFolder) -> Result<()> {
        let state = serde_json::to_value(self).expect("invariant: a checkpoint is plain data");
        let tensors = self.under_way.as_ref().map_or_else(Vec::new, |state| {
            state.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
        });
        TensorFile { tensors, state }.write(&run.checkpoint())
    }
}

impl StageState {
    /// The state of a stage with its learner.
    pub(super) fn new(
        learner: &Learner,
        envs: Vec<serde_json::Value>,
        ranks: Vec<RankState>,
        seconds: f64,
        candidates: Vec<String>,
        trained: bool,
    ) -> Self {
        let Snapshot { tensors, counters } = learner.snapshot();
        let timesteps = learner.timesteps();
        Self { timesteps, seconds, candidates, trained, envs, ranks, learner: counters, tensors }
    }

    /// Puts the learner where it was.
    pub(super) fn restore(&self, learner: &mut Learner, run: &RunFolder) -> Result<()> {
        let tensors =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let snapshot = Snapshot { tensors, counters: self.learner.clone() };
        learner.restore(&snapshot).map_err(|problem| Error::Checkpoint { path: run.checkpoint(), problem })
    }
}
