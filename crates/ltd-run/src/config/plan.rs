//! From a configuration to the list of stages.

use std::time::Duration;

use ltd_policy::PolicyKind;

use super::{Backend, DepthRange, ImitationStage, Minutes, PredictorStage, TrainConfig};

/// Something learning for a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Number and what learns, `01-size`: its folder in a run.
    pub name: String,
    /// Ends the stage early.
    pub max_time: Option<Duration>,
    /// What learns.
    pub task: StageTask,
}

/// What learns in a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum StageTask {
    /// The factored policy's predictor.
    Predictor(PredictorStage),
    /// The policies of the pair, from the factored policy.
    Imitation(ImitationStage),
    /// One policy of the pair.
    Policy(PolicyTask),
}

/// One policy of the pair learning against a fixed counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyTask {
    /// Which policy learns.
    pub kind: PolicyKind,
    /// Decisions to learn from.
    pub total_timesteps: usize,
    /// Who makes the other decisions.
    pub counterpart: Counterpart,
    /// Where its cycles come from.
    pub backend: Backend,
}

/// Who makes the other decisions during a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counterpart {
    /// A depth drawn uniformly for each cycle.
    RandomDepth(DepthRange),
    /// A fixed verification size.
    FixedSize(usize),
    /// The other policies as their last stages left them, or the default setting in place of one
    /// without.
    Frozen,
}

impl std::fmt::Display for Counterpart {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::RandomDepth(range) => write!(f, "depth drawn from {}..={}", range.min, range.max),
            Self::FixedSize(size) => write!(f, "size {size}"),
            Self::Frozen => f.write_str("the other policies, frozen"),
        }
    }
}

impl Stage {
    /// The policy of the pair that learns, if one does.
    pub fn policy(&self) -> Option<PolicyTask> {
        match self.task {
            StageTask::Policy(task) => Some(task),
            StageTask::Predictor(_) | StageTask::Imitation(_) => None,
        }
    }

    /// Whether it leaves a policy of the pair of this kind.
    pub fn leaves(&self, kind: PolicyKind) -> bool {
        match self.task {
            StageTask::Policy(task) => task.kind == kind,
            StageTask::Imitation(_) => true,
            StageTask::Predictor(_) => false,
        }
    }
}

impl std::fmt::Display for StageTask {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Predictor(stage) => write!(f, "{} epochs over all recorded trees", stage.epochs),
            Self::Imitation(stage) => {
                write!(f, "{} epochs over the factored policy's decisions", stage.epochs)
            }
            Self::Policy(task) => {
                let cycles = match task.backend {
                    Backend::Live => "live",
                    Backend::Replay => "recorded",
                };
                write!(f, "{} steps of {cycles} cycles, against {}", task.total_timesteps, task.counterpart)
            }
        }
    }
}

impl TrainConfig {
    /// The stages in order.
    pub fn plan(&self) -> Vec<Stage> {
        let usual = if self.replay.is_some() { Backend::Replay } else { Backend::Live };
        let policy = |kind, total_timesteps, counterpart, backend: Option<Backend>| {
            let backend = backend.unwrap_or(usual);
            StageTask::Policy(PolicyTask { kind, total_timesteps, counterpart, backend })
        };
        let mut tasks: Vec<(Option<Minutes>, StageTask)> = Vec::new();
        if let Some(stage) = &self.stages.predictor {
            tasks.push((stage.max_minutes, StageTask::Predictor(stage.clone())));
        }
        if let Some(stage) = self.stages.imitation {
            tasks.push((None, StageTask::Imitation(stage)));
        }
        if let Some(stage) = &self.stages.size {
            let counterpart = Counterpart::RandomDepth(stage.random_depth);
            let task = policy(PolicyKind::Size, stage.total_timesteps, counterpart, None);
            tasks.push((stage.max_minutes, task));
        }
        if let Some(stage) = &self.stages.depth {
            let counterpart = Counterpart::FixedSize(stage.verification_size);
            let task = policy(PolicyKind::Depth, stage.total_timesteps, counterpart, None);
            tasks.push((stage.max_minutes, task));
        }
        for _ in 0..self.stages.rounds {
            tasks.extend(self.stages.round.iter().map(|stage| {
                let task = policy(stage.train, stage.total_timesteps, Counterpart::Frozen, stage.backend);
                (stage.max_minutes, task)
            }));
        }
        let numbered = (1..).zip(tasks).map(|(number, (limit, task)): (usize, _)| Stage {
            name: match &task {
                StageTask::Predictor(_) => format!("{number:02}-predictor"),
                StageTask::Imitation(_) => format!("{number:02}-imitation"),
                StageTask::Policy(task) => format!("{number:02}-{}", task.kind),
            },
            max_time: limit.map(Minutes::duration),
            task,
        });
        numbered.collect()
    }
}
