//! Target and draft models, KV caches and the draft-and-verify cycle of EAGLE-3.
//!
//! ```no_run
//! use ltd_engine::text::TextModel;
//! use ltd_engine::{Engine, EngineConfig, Sampler, Static, StopRule};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Before LibTorch's threads begin.
//! ltd_engine::bound_spinning();
//! let config = EngineConfig::new("models/smollm2-135m-instruct", "assets/eagle3-smollm2-135m");
//! let text = TextModel::of(&config)?;
//! let engine = Engine::open(&config, &text)?;
//!
//! let prompt = text.encode_chat("What is 2+2?")?.ok_or("the target has no tokenizer")?;
//! let stop = StopRule { max_new_tokens: 64, eos: text.eos().to_vec() };
//! let mut answer = engine.generate(&prompt, Sampler::greedy(), stop, None)?;
//! // Or a learned policy: `Learned::of_package`.
//! let mut controller = Static { depth: 3, size: 12 };
//! while let Some(cycle) = answer.advance(&engine, Some(&mut controller))? {
//!     println!("{} tokens in {:?}", cycle.acceptance_length(), cycle.timing.total());
//! }
//! println!("{}", text.decode(&answer.output())?);
//! # Ok(())
//! # }
//! ```
//!
//! [`Engine::generate`] is the loop of everything that decodes; [`Engine::run_cycle`] is one cycle
//! of it. [`text`] is prompts and answers, [`measure`] what benchmarks ask.

mod blame;
mod config;
mod copying;
mod cuda;
mod cycle;
mod device;
mod dtype_choice;
mod engine;
mod error;
mod fingerprint;
mod generation;
mod graphs;
mod identity;
mod kv_cache;
mod libtorch;
pub mod measure;
mod model;
mod out_of_memory;
#[cfg(test)]
#[path = "../tests/it/pairs.rs"]
mod pairs;
mod placement;
mod positions;
mod prefill;
mod process;
mod random;
mod reading;
mod sampling;
mod session;
#[cfg(test)]
mod simulated;
pub mod text;
mod timing;
mod transfer;

pub use config::{CudaGraphs, Devices, EngineConfig, MAX_BEAM_WIDTH};
pub use cycle::{CycleState, VerifiedTree};
pub use device::{Dtype, DtypeSetting};
pub use dtype_choice::{DtypeChoice, DtypeTiming};
pub use engine::Engine;
pub use error::{Error, Result};
pub use fingerprint::fingerprint;
pub use generation::Generation;
pub use libtorch::libtorch_version;
/// The plain data of `ltd-cycle` that the engine takes and gives.
pub use ltd_cycle::{
    Continuation, Controller, CopiesAlone, Copying, Cycle, CycleOutcome, CycleStats, CycleTiming, DraftTree,
    Glimpse, GrownTree, Learned, Looks, MAX_DEPTH, Static, StopReason, StopRule, VerificationTree, WholeBeam,
};
pub use model::{
    BlockConfig, DraftConfig, FeatureNorm, RopeConfig, RopeScaling, TargetConfig, TorchArchive,
    why_not_packed,
};
pub use out_of_memory::OutOfMemory;
pub use placement::Shortage;
pub use positions::Along;
pub use process::bound_spinning;
pub use reading::Reading;
pub use sampling::{Sampler, SamplingParams, distribution, tokens_at};
pub use session::Session;
