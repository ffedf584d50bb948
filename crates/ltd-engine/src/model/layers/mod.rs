//! Blocks that the target's layers and the draft's one layer share.

mod attention;
mod bucket;
mod embedding;
mod host;
mod linear;
mod mask;
mod mlp;
mod norm;
mod packed;
mod plan;
mod rope;
mod rows;
mod top;

pub(crate) use attention::Attention;
pub(crate) use bucket::Bucket;
pub(crate) use embedding::Embedding;
pub(crate) use host::{check_instructions, instructions};
pub(crate) use linear::Linear;
pub(crate) use mask::AttentionMask;
pub(crate) use mlp::Mlp;
pub(crate) use norm::RmsNorm;
pub use packed::why_not_packed;
pub(crate) use plan::AttentionPlan;
pub(crate) use rope::RotaryTable;
pub(crate) use rows::Rows;
pub(crate) use top::{
    Argmax, Best, FetchedArgmax, best_log_probs, entropies, first_not_finite, nth_largest, top_values,
};
