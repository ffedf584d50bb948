//! Target and draft models, KV caches, draft trees and the draft-and-verify cycle of EAGLE-3.

mod config;
mod controller;
mod cycle;
mod device;
mod dtype_choice;
mod engine;
mod error;
mod fingerprint;
mod generate;
mod kv_cache;
mod model;
mod operations;
mod outcome;
mod probe;
mod products;
mod random;
mod session;
pub mod text;
mod timing;
mod tree;

pub use config::{EngineConfig, MAX_DEPTH};
pub use controller::{Controller, Learned, Static};
pub use cycle::{CycleState, VerifiedTree};
pub use device::{Dtype, DtypeSetting};
pub use dtype_choice::{DtypeChoice, DtypeTiming};
pub use engine::Engine;
pub use error::{Error, Result};
pub use fingerprint::fingerprint;
pub use generate::{StopReason, StopRule};
pub use model::{BlockConfig, DraftConfig, TargetConfig};
pub use operations::Operation;
pub use outcome::{CycleOutcome, CycleStats, CycleTiming};
pub use products::{ProductKernel, Products};
pub use session::Session;
pub use tree::{DraftTree, VerificationTree};
