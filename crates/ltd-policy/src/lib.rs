#![doc = include_str!("../README.md")]
//!
//! The chapters: [`observation`] is what a policy sees, [`action`] what it may choose, [`network`]
//! what decides, [`decider`] and [`factored`] how it decides in the decode loop, [`source`] what a
//! cycle drafts from, [`calibration`] how probable candidates of either source are, [`tokens`]
//! which tokens are safe to copy, [`latency`] what cycles cost, [`package`] what is deployed,
//! [`official`] what the published code does otherwise, and [`files`] how all of it comes to disk.

pub mod action;
pub mod calibration;
mod conditions;
pub mod decider;
mod error;
pub mod factored;
pub mod files;
pub mod latency;
mod models;
pub mod network;
pub mod observation;
pub mod official;
pub mod package;
mod sampling;
pub mod source;
pub mod tokens;

pub use conditions::Conditions;
pub use error::{Error, Result};
pub use models::{ModelIdentity, Models};
pub use sampling::SamplingParams;

#[doc(no_inline)]
pub use action::{DepthActions, DepthRule, MAX_SIZE, PolicyKind, SizeActions, tree_candidates};
#[doc(no_inline)]
pub use calibration::Calibration;
#[doc(no_inline)]
pub use decider::{DepthPolicy, SizePolicy, SourcePolicy};
#[doc(no_inline)]
pub use factored::{
    Factored, FactoredActions, FactoredPolicy, FactoredRule, FactoredSource, FrozenPredictor,
    FrozenSourcePredictor, SourceOutcomes,
};
#[doc(no_inline)]
pub use files::{
    FolderLock, check_new_folder, check_output_file, check_output_folder, is_full, is_unfinished, json_text,
    read_text, remove_unfinished, sha256_hex, write_atomically, write_json,
};
#[doc(no_inline)]
pub use latency::{
    DecisionCost, GridPoint, HeldOutError, LatencyIdentity, LatencyModel, LatencyTable, Surface,
};
#[doc(no_inline)]
pub use network::{
    Actions, Activation, Frozen, FrozenPolicy, Linear, MAX_LAYERS, Mlp, Outputs, Probes, Scratch, TensorsIn,
    TensorsOut, argmax,
};
#[doc(no_inline)]
pub use observation::{CycleSummary, ObservationLayout, PROBABILITY_FLOOR, Segment, Sight, Source};
#[doc(no_inline)]
pub use package::{
    Choice, ChoiceEntry, Compat, Expected, FactoredSourceEntry, Fallback, MANIFEST_FILE, Manifest, Policy,
    PolicyEntry, PolicyPackage, SourceChoice, SourceEntry, TOKENS_FILE,
};
#[doc(no_inline)]
pub use source::{Agreement, CopyRule, DraftSource, LONGEST_MATCH, Merged, SourceActions, SourceSummary};
#[doc(no_inline)]
pub use tokens::TokenRecord;
