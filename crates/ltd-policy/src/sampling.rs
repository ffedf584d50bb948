//! How a target's tokens are chosen, as a user says it and as a package records it.

use serde::{Deserialize, Serialize};

/// How the next token is chosen from the target's logits. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 is greedy decoding, where `top_k` and `top_p` change nothing.
    pub temperature: f64,
    /// Only the most probable tokens that together reach this probability stay; 1 keeps all.
    pub top_p: f64,
    /// Only this many of the most probable tokens stay; null keeps all.
    pub top_k: Option<usize>,
}

/// Lowest temperature above 0: below, the quotient of logits can leave the range of `f32`.
const LEAST_TEMPERATURE: f64 = 1e-3;

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: None }
    }
}

impl SamplingParams {
    /// Whether both choose tokens alike: at temperature 0 the rest has no effect.
    pub fn is_as(&self, other: &Self) -> bool {
        self == other || self.is_greedy() && other.is_greedy()
    }

    /// Whether the most probable token is always chosen.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// All impossible values, as `(key, problem)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let Self { temperature, top_p, top_k } = *self;
        let mut problems = Vec::new();
        if !(self.is_greedy() || temperature >= LEAST_TEMPERATURE && temperature.is_finite()) {
            let problem =
                format!("is {temperature}, must be 0 (greedy) or a number from {LEAST_TEMPERATURE} on");
            problems.push(("temperature", problem));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            problems
                .push(("top_p", format!("is {top_p}, must be above 0 and at most 1 (1 keeps all tokens)")));
        }
        if top_k == Some(0) {
            problems.push(("top_k", "is 0, must be at least 1 (left out, it keeps all tokens)".to_owned()));
        }
        problems
    }
}

impl std::fmt::Display for SamplingParams {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if self.is_greedy() {
            return f.write_str("greedy");
        }
        write!(f, "temperature {}", self.temperature)?;
        if let Some(top_k) = self.top_k {
            write!(f, ", top-k {top_k}")?;
        }
        if self.top_p < 1.0 {
            write!(f, ", top-p {}", self.top_p)?;
        }
        Ok(())
    }
}
