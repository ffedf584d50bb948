//! Observation layouts, action tables, the policy package and its evaluator: all that a server needs, no LibTorch.

mod action;
mod atomic_file;
mod conditions;
mod decider;
mod error;
mod factored;
mod frozen;
mod latency;
mod manifest;
mod mlp;
mod models;
mod observation;
mod package;
mod sampling;

pub use action::{DepthActions, DepthRule, SizeActions};
pub use atomic_file::write_atomically;
pub use conditions::Conditions;
pub use decider::{DepthPolicy, SizePolicy};
pub use error::{Error, Result};
pub use factored::{FactoredActions, FactoredPolicy, FactoredRule, FrozenPredictor};
pub use frozen::{Actions, Frozen, FrozenPolicy, Outputs, PolicyKind, Probes};
pub use latency::{
    DecisionCost, GridPoint, HeldOutError, LatencyIdentity, LatencyModel, LatencyTable, Surface,
};
pub use manifest::{ChoiceEntry, Expected, Fallback, MANIFEST_FILE, Manifest, PolicyEntry};
pub use mlp::{Linear, Mlp, Scratch, argmax};
pub use models::{ModelIdentity, Models};
pub use observation::{CycleSummary, ObservationLayout, PROBABILITY_FLOOR, Segment, Source};
pub use package::{Choice, Factored, Policy, PolicyPackage, sha256_hex};
pub use sampling::SamplingParams;
