//! What benchmarks and latency tables ask of an engine: single forwards, where their time goes, the
//! bare products that they would take at least, and cycles whose text does not matter.

pub(crate) mod operations;
mod probe;
mod products;
mod rehearsal;

pub use operations::Operation;
pub use products::{ProductKernel, Products};
pub use rehearsal::Rehearsal;
