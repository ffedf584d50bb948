//! The two decision processes, depth and size, over draft-and-verify cycles.
//!
//! Recorded cycles and what can be told from them ([`ReplayCycles`], [`oracle`]) are plain data.
//! The feature `live`, which is on unless switched off, adds what runs models and needs LibTorch:
//! [`LiveCycles`], recording ([`trace::record_sequence`]) and measuring ([`latency`]).

mod backend;
mod costs;
mod counterpart;
mod depth_env;
mod env;
mod episode;
mod error;
mod interrupt;
#[cfg(feature = "live")]
pub mod latency;
#[cfg(feature = "live")]
mod live;
mod noise;
pub mod oracle;
mod order;
#[cfg(feature = "live")]
mod prompt_stream;
mod random;
mod replay;
mod reward;
mod size_env;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;

pub use backend::CycleBackend;
pub use costs::Costs;
pub use counterpart::RandomDepth;
pub use depth_env::DepthEnv;
pub use env::{Decision, Env, PolicyFn, Step};
pub use error::{Error, Result};
pub use interrupt::Interrupt;
#[cfg(feature = "live")]
pub use live::LiveCycles;
pub use ltd_cycle::Cycle;
pub use noise::Scatter;
#[cfg(feature = "live")]
pub use prompt_stream::PromptStream;
pub use random::stream;
pub use replay::{RecordedTree, ReplayCycle, ReplayCycles};
pub use reward::{Reward, RewardMeter};
pub use size_env::SizeEnv;
