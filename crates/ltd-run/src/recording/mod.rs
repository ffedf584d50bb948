//! What replay needs: draft trees recorded once, and the costs of this machine.

mod latency;
mod trace;

pub use latency::{describe_latency, measure_latency};
pub use trace::{Recording, record};
