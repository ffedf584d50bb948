//! How a target's tokens are chosen, as a user says it and as a package records it.

use serde::{Deserialize, Serialize};

/// How the next token is chosen from the target's logits. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 is greedy decoding, where `top_k` and `top_p` change nothing.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("anyOf" = [{ "const": 0 }, { "minimum": LEAST_TEMPERATURE, "maximum": HIGHEST_TEMPERATURE }]))
    )]
    pub temperature: f64,
    /// Only the most probable tokens that together reach this probability stay; 1 keeps all.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "maximum" = 1)))]
    pub top_p: f64,
    /// Only this many of the most probable tokens stay; null keeps all.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_TOKENS)))]
    pub top_k: Option<usize>,
}

/// Lowest temperature above 0: below, the quotient of logits can leave the range of `f32`.
const LEAST_TEMPERATURE: f64 = 1e-3;
/// Highest temperature: far below, all tokens are as probable as each other.
const HIGHEST_TEMPERATURE: f64 = 1e3;
/// Most tokens that a limit can name: more than any vocabulary has.
const MOST_TOKENS: usize = i32::MAX as usize;

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
        if !(self.is_greedy() || (LEAST_TEMPERATURE..=HIGHEST_TEMPERATURE).contains(&temperature)) {
            let problem = format!(
                "is {temperature:?}, must be 0 (greedy) or within {LEAST_TEMPERATURE}..={HIGHEST_TEMPERATURE}"
            );
            problems.push(("temperature", problem));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            problems
                .push(("top_p", format!("is {top_p:?}, must be above 0 and at most 1 (1 keeps all tokens)")));
        }
        if let Some(top_k) = top_k.filter(|top_k| !(1..=MOST_TOKENS).contains(top_k)) {
            let problem =
                format!("is {top_k}, must be within 1..={MOST_TOKENS} (left out, it keeps all tokens)");
            problems.push(("top_k", problem));
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
