//! The decision processes: on scripted cycles, and on the tiny pair.

#[cfg(feature = "live")]
mod copies;
#[cfg(feature = "live")]
mod fuzz;
#[cfg(feature = "live")]
mod large;
#[cfg(feature = "live")]
mod live;
#[cfg(feature = "live")]
mod oracle;
#[cfg(feature = "live")]
mod replay;
#[cfg(feature = "live")]
mod sampled;
mod scripted;
#[cfg(feature = "live")]
mod trace;
