//! Target and draft models, KV caches, draft trees and the draft-and-verify cycle of EAGLE-3.

mod controller;
mod cycle;
mod error;
mod outcome;

pub use controller::{Controller, Static};
pub use cycle::{CycleState, Engine, Session};
pub use error::{Error, Result};
pub use outcome::{CycleOutcome, CycleTiming};
