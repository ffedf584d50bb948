//! Blocks that the target's layers and the draft's one layer share.

mod attention;
mod embedding;
mod host;
mod linear;
mod mask;
mod mlp;
mod norm;
mod packed;
mod rope;
mod top;

pub(crate) use attention::{Attention, AttentionPlan};
pub(crate) use embedding::Embedding;
pub(crate) use host::{check_instructions, instructions};
pub(crate) use linear::Linear;
pub(crate) use mask::AttentionMask;
pub(crate) use mlp::Mlp;
pub(crate) use norm::RmsNorm;
pub use packed::{libtorch_version, why_not_packed};
pub(crate) use rope::RotaryTable;
pub(super) use top::top_log_probs;
pub(crate) use top::{argmax, entropies, first_not_finite};
