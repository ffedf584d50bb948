//! Settings for the servers that people use, each in the form of a named version.
//!
//! A server cannot run a policy, but it has settings that do not change, and one has chains whose
//! length follows what was accepted lately. Of the settings that are [known](Known) of a package,
//! each server gets the fastest that it accepts, with what is lost against the policy.

mod choice;
mod form;
mod known;
mod llama_cpp;
mod openvino;
mod replayed;
mod server;
mod setting;
mod sglang;
mod tensorrt_llm;
mod vllm;

pub use choice::{Advice, advise, write};
pub(crate) use form::printable;
pub use form::{Place, ServerFile, ServerForm};
pub use known::{Known, Rated};
pub use replayed::Recordings;
pub use server::Server;
pub use setting::{Setting, Trees};
