//! Observation layouts, action tables, the policy package and its evaluator: all that a server needs, no LibTorch.

mod observation;

pub use observation::CycleSummary;
