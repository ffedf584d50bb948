//! Training of the factored policy: predictors of accepted tokens, and the rule that weighs them
//! against time.

mod fit;
mod network;
mod records;
mod rule;
mod samples;
mod source;
mod train;

pub(crate) use fit::{Fitted, fit, size_tables};
pub(crate) use records::Records;
pub(crate) use rule::{settle, settle_source};
pub(crate) use source::Walks;
pub(crate) use train::Epoch;
