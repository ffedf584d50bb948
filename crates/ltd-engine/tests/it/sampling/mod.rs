//! Sampling: the distribution, the rule for trees, and both models together.

mod pairs;
mod processors;
mod rule;
mod statistics;
mod toy;

use ltd_engine::SamplingParams;

/// Settings that differ in which part of the distribution is cut.
pub(crate) const SETTINGS: [SamplingParams; 3] = [
    SamplingParams { temperature: 1.0, top_p: 1.0, top_k: None },
    SamplingParams { temperature: 0.7, top_p: 0.9, top_k: None },
    SamplingParams { temperature: 1.3, top_p: 1.0, top_k: Some(3) },
];
