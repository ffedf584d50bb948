//! Training of the factored policy: a predictor of accepted tokens, and the rule that weighs them against time.

mod network;
mod rule;
mod samples;
mod train;

pub(crate) use rule::settle;
pub(crate) use samples::Samples;
pub(crate) use train::{Epoch, train};
