//! The two decision processes, depth and size, over live draft-and-verify cycles.

mod env;

pub use env::{Decision, Env, Step};
