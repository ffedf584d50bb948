//! The three decision processes, depth, size and source, over draft-and-verify cycles.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use ltd_cycle::Static;
//! use ltd_env::trace::Trace;
//! use ltd_env::{Costs, Decision, Env, ReplayCycles, Reward, RewardMeter, SizeEnv};
//! use ltd_policy::{LatencyTable, ObservationLayout, SizeActions};
//!
//! // Recorded trees, at the costs of a machine: `ltd-trace record` and `ltd-trace latency`.
//! let trace = Arc::new(Trace::read_replayable("trace".as_ref())?);
//! let table = LatencyTable::read("latency.json".as_ref())?;
//! let costs = Costs { model: table.model(), decision: table.decision };
//! let cycles = ReplayCycles::new(Arc::clone(&trace), costs, 1)?;
//! // One learns the size; drafting always stops at depth 4.
//! let counterpart = Box::new(Static { depth: 4, size: 16 });
//! let layout = ObservationLayout::reference_size(trace.header.beam_width, trace.header.depth);
//! let actions = SizeActions { sizes: vec![4, 16, 60] };
//! let meter = RewardMeter::new(Reward::Gain);
//! let mut env = SizeEnv::new(cycles, counterpart, actions, layout, meter);
//!
//! let mut observation = vec![0.0; env.observation_len()];
//! env.reset(&mut observation)?;
//! let step = env.step(Decision { action: 1, elapsed: Default::default() }, &mut observation)?;
//! println!("reward {}", step.reward);
//! # Ok::<(), ltd_env::Error>(())
//! ```
//!
//! Recorded cycles and what can be told from them ([`ReplayCycles`], [`oracle`]) are plain data.
//! The feature `live`, which is on unless switched off, adds what runs models and needs LibTorch:
//! [`LiveCycles`], recording ([`trace::record_sequence`]) and measuring ([`latency`]).

mod backend;
mod calibrate;
mod copied;
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
mod source_env;
pub mod trace;

pub use backend::CycleBackend;
pub use calibrate::{calibrate, token_record};
pub use copied::Copied;
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
pub use source_env::SourceEnv;
