//! Networks that no longer learn: their file, and their evaluation inside the decode loop.

mod frozen;
mod mlp;
mod tensors;

pub use frozen::{Actions, Frozen, FrozenPolicy, Outputs, Probes};
pub use mlp::{Activation, Linear, Mlp, Scratch, argmax};
pub use tensors::{MAX_LAYERS, TensorsIn, TensorsOut};
