//! Training of the factored policy: a predictor of accepted tokens, and what time is worth.

mod lambda;
mod network;
mod samples;
mod train;

pub(crate) use lambda::settle;
pub(crate) use samples::Samples;
pub(crate) use train::{Epoch, train};
