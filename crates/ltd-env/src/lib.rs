//! The two decision processes, depth and size, over draft-and-verify cycles.

mod backend;
mod counterpart;
mod depth_env;
mod env;
mod episode;
mod error;
mod interrupt;
pub mod latency;
mod live;
mod noise;
pub mod oracle;
mod prompt_stream;
mod random;
mod replay;
mod reward;
mod size_env;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;

pub use backend::{Cycle, CycleBackend};
pub use counterpart::RandomDepth;
pub use depth_env::DepthEnv;
pub use env::{Decision, Env, PolicyFn, Step};
pub use error::{Error, Result};
pub use interrupt::Interrupt;
pub use live::LiveCycles;
pub use noise::Scatter;
pub use prompt_stream::PromptStream;
pub use random::stream;
pub use replay::{Costs, RecordedTree, ReplayCycle, ReplayCycles};
pub use reward::{Reward, RewardMeter};
pub use size_env::SizeEnv;
