#![doc = include_str!("../README.md")]

mod action;
mod atomic_file;
mod conditions;
mod decider;
mod error;
mod factored;
mod folder_lock;
mod frozen;
mod json_file;
mod latency;
mod manifest;
mod mlp;
mod models;
mod observation;
mod output;
mod package;
mod sampling;
mod sha256;
mod text_file;

pub use action::{DepthActions, DepthRule, MAX_SIZE, SizeActions, tree_candidates};
pub use atomic_file::{is_full, remove_unfinished, write_atomically};
pub use conditions::Conditions;
pub use decider::{DepthPolicy, SizePolicy};
pub use error::{Error, Result};
pub use factored::{Factored, FactoredActions, FactoredPolicy, FactoredRule, FrozenPredictor};
pub use folder_lock::FolderLock;
pub use frozen::{Actions, Frozen, FrozenPolicy, MAX_LAYERS, Outputs, PolicyKind, Probes};
pub use json_file::{json_text, write_json};
pub use latency::{
    DecisionCost, GridPoint, HeldOutError, LatencyIdentity, LatencyModel, LatencyTable, Surface,
};
pub use manifest::{ChoiceEntry, Expected, Fallback, MANIFEST_FILE, Manifest, PolicyEntry};
pub use mlp::{Linear, Mlp, Scratch, argmax};
pub use models::{ModelIdentity, Models};
pub use observation::{CycleSummary, ObservationLayout, PROBABILITY_FLOOR, Segment, Source};
pub use output::{check_new_folder, check_output_file, check_output_folder};
pub use package::{Choice, Policy, PolicyPackage};
pub use sampling::SamplingParams;
pub use sha256::sha256_hex;
pub use text_file::read_text;
