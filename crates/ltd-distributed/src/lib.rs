//! Ranks of one run: who they are, and what they say to each other.
//!
//! A launcher (`torchrun --no-python`, Slurm, Kubernetes) starts one process per rank and tells
//! each in its environment who it is ([`Launch`]). They meet in LibTorch's key-value store over TCP
//! (`c10d::TCPStore`), which the first rank serves unless the launcher does, and speak in lockstep
//! through a [`Group`]: the first rank's word to all, and everybody's to the first. Without a
//! launcher, a group of one says nothing to nobody: one code path.
//!
//! Nothing waits for ever: who fails says why before it goes, who dies or hangs is named by the
//! others ([`Error`]).

mod client;
mod ending;
mod error;
mod fact;
mod group;
mod joining;
mod launch;
mod link;
mod seal;
mod store;
mod vigil;

pub use ending::Ending;
pub use error::{Error, Result};
pub use fact::Fact;
pub use group::{Group, Work};
pub use launch::Launch;
pub use link::Traffic;
