//! What replay needs: draft trees recorded once, and the costs of this machine.

mod latency;
mod shard;
mod trace;

pub use latency::{describe_latency, measure_latency};
pub(crate) use shard::Variables;
pub use shard::{Launcher, ShardChoice, launched};
pub use trace::{Recording, collect, record};
