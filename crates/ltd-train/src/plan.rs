//! From a configuration to the list of stages.

use std::time::Duration;

use ltd_policy::PolicyKind;

use crate::config::{DepthRange, TrainConfig};

/// One policy learning for a while against a fixed counterpart.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Number and policy, `01-size`: its folder in a run.
    pub name: String,
    /// Which policy learns.
    pub kind: PolicyKind,
    /// Decisions to learn from.
    pub total_timesteps: usize,
    /// Ends the stage early.
    pub max_time: Option<Duration>,
    /// Who makes the other decision.
    pub counterpart: Counterpart,
}

/// Who makes the other decision during a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counterpart {
    /// A depth drawn uniformly for each cycle.
    RandomDepth(DepthRange),
    /// A fixed verification size.
    FixedSize(usize),
    /// The other policy as its last stage left it, or the default setting if it had none.
    Frozen,
}

impl std::fmt::Display for Counterpart {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::RandomDepth(range) => write!(f, "depth drawn from {}..={}", range.min, range.max),
            Self::FixedSize(size) => write!(f, "size {size}"),
            Self::Frozen => f.write_str("the other policy, frozen"),
        }
    }
}

impl TrainConfig {
    /// The stages in order.
    pub fn plan(&self) -> Vec<Stage> {
        let mut stages = Vec::new();
        let mut add = |kind: PolicyKind, total_timesteps, max_minutes: Option<f64>, counterpart| {
            stages.push(Stage {
                name: format!("{:02}-{kind}", stages.len() + 1),
                kind,
                total_timesteps,
                max_time: max_minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
                counterpart,
            });
        };
        if let Some(stage) = &self.stages.size {
            let counterpart = Counterpart::RandomDepth(stage.random_depth);
            add(PolicyKind::Size, stage.total_timesteps, stage.max_minutes, counterpart);
        }
        if let Some(stage) = &self.stages.depth {
            let counterpart = Counterpart::FixedSize(stage.verification_size);
            add(PolicyKind::Depth, stage.total_timesteps, stage.max_minutes, counterpart);
        }
        for _ in 0..self.stages.rounds {
            for stage in &self.stages.round {
                add(stage.train, stage.total_timesteps, stage.max_minutes, Counterpart::Frozen);
            }
        }
        stages
    }
}
