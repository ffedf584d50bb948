//! Target and draft models.

mod config;
mod draft;
#[cfg(test)]
mod families;
#[cfg(test)]
mod heads;
mod layers;
mod split;
mod target;
mod vocabulary_map;
mod weights;

pub use config::{BlockConfig, DraftConfig, FeatureNorm, RopeConfig, RopeScaling, TargetConfig};
pub(crate) use draft::{Continuations, DraftModel};
pub use layers::why_not_packed;
pub(crate) use layers::{
    Argmax, AttentionMask, Bucket, FetchedArgmax, Linear, Rows, best_log_probs, check_instructions,
    entropies, first_not_finite, instructions, nth_largest, top_values,
};
pub(crate) use split::{layer_weights, split_layers};
pub(crate) use target::{LogitRows, StageInputs, TargetModel, TargetOutput};
pub use weights::TorchArchive;
pub(crate) use weights::{Weights, passed_over_index, stored_kind, weight_files};
