//! Training of the factored policy: a predictor of accepted tokens, and the rule that weighs them
//! against time.

mod fit;
mod network;
mod rule;
mod samples;
mod train;

pub(crate) use fit::{Fitted, fit, size_tables};
pub(crate) use rule::settle;
pub(crate) use train::Epoch;
