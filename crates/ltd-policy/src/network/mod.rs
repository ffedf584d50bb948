//! Networks that no longer learn: their file, and their evaluation inside the decode loop.

mod frozen;
mod mlp;

pub use frozen::{Actions, Frozen, FrozenPolicy, MAX_LAYERS, Outputs, Probes};
pub use mlp::{Linear, Mlp, Scratch, argmax};
