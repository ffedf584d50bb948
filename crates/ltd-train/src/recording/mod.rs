//! What replay needs: draft trees recorded once, and the costs of this machine.

mod latency;
mod recorded;
mod trace;

pub use latency::{describe_latency, measure_latency};
pub(crate) use recorded::Recorded;
pub use trace::{Recording, record};
