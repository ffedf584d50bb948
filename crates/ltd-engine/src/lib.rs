//! Target and draft models, KV caches and the draft-and-verify cycle of EAGLE-3.

mod blame;
mod config;
mod cuda;
mod cycle;
mod device;
mod dtype_choice;
mod engine;
mod error;
mod fingerprint;
mod generation;
mod huge_pages;
mod kv_cache;
mod model;
mod open;
mod operations;
mod out_of_memory;
#[cfg(test)]
#[path = "../tests/it/pairs.rs"]
mod pairs;
mod placement;
mod positions;
mod prefill;
mod probe;
mod products;
mod random;
mod rehearsal;
mod sampling;
mod session;
pub mod text;
mod timing;
mod waiting;

pub use config::{Devices, EngineConfig, MAX_BEAM_WIDTH};
pub use cycle::{CycleState, VerifiedTree};
pub use device::{Dtype, DtypeSetting};
pub use dtype_choice::{DtypeChoice, DtypeTiming};
pub use engine::Engine;
pub use error::{Error, Result};
pub use fingerprint::fingerprint;
pub use generation::Generation;
/// The plain data of `ltd-cycle` that the engine takes and gives.
pub use ltd_cycle::{
    Continuation, Controller, Cycle, CycleOutcome, CycleStats, CycleTiming, DraftTree, GrownTree, Learned,
    MAX_DEPTH, Static, StopReason, StopRule, VerificationTree, WholeBeam,
};
pub use model::{
    BlockConfig, DraftConfig, RopeConfig, RopeScaling, TargetConfig, libtorch_version, why_not_packed,
};
pub use operations::Operation;
pub use out_of_memory::OutOfMemory;
pub use placement::Shortage;
pub use positions::Along;
pub use products::{ProductKernel, Products};
pub use rehearsal::Rehearsal;
pub use sampling::{Sampler, SamplingParams, distribution, tokens_at};
pub use session::Session;
pub use waiting::bound_spinning;
