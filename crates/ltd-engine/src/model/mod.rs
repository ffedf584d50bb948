//! Target and draft models.

mod config;
mod draft;
mod layers;
mod target;
mod weights;

pub use config::{BlockConfig, DraftConfig, TargetConfig};
pub(crate) use draft::DraftModel;
pub(crate) use layers::{AttentionMask, Linear};
pub(crate) use target::{LogitRows, TargetModel};
pub(crate) use weights::{Weights, stored_kind, weight_files};
