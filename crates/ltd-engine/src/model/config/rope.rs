//! Rotary position embedding as model configurations describe it, in both spellings of Hugging
//! Face: `rope_theta` with `rope_scaling`, and `rope_parameters`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::unsupported::unsupported;
use crate::{Error, Result};

/// Rotary frequencies of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are changed for long contexts.
    pub scaling: RopeScaling,
}

/// Change of the rotary frequencies for contexts longer than those of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// `theta^(-2i/d)`, unchanged.
    None,
    /// All frequencies divided by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence beyond `max_positions` ("dynamic NTK"). Up to there nothing
    /// changes, and longer caches are refused: keys that were cached at another length would have
    /// other frequencies, so that the output would depend on how the sequence was cut into
    /// forwards.
    Dynamic {
        /// Positions up to which the frequencies are unchanged.
        max_positions: i64,
    },
    /// Long wavelengths divided by a factor, short ones kept, those between interpolated (Llama
    /// 3.1).
    Llama3 {
        /// Divisor of the longest wavelengths' frequencies.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are scaled in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_positions: i64,
    },
}

/// `rope_scaling` or `rope_parameters` as found.
#[derive(Debug, Default, Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<i64>,
    partial_rotary_factor: Option<f64>,
    /// All other keys.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Keys of `rope_scaling` that change nothing: a text's positions are the same in all sections.
const WITHOUT_EFFECT: [&str; 3] = ["mrope_section", "mrope_interleaved", "finetuned"];
const SUPPORTED: &str = "default, linear, dynamic or llama3";

impl RopeConfig {
    /// Positions beyond which these frequencies are not defined once and for all.
    pub fn limit(&self) -> Option<i64> {
        match self.scaling {
            RopeScaling::Dynamic { max_positions } => Some(max_positions),
            _ => None,
        }
    }

    /// `settings` are `rope_parameters` or `rope_scaling`; `theta` is the configuration's own key,
    /// `max_positions` its `max_position_embeddings`.
    pub(super) fn resolve(
        path: &Path,
        settings: Option<&Value>,
        theta: Option<f64>,
        max_positions: i64,
    ) -> Result<Self> {
        let raw = match settings {
            Some(settings) => RawRope::deserialize(of_all_layers(path, settings)?)
                .map_err(|source| Error::Json { path: path.to_owned(), source })?,
            None => RawRope::default(),
        };
        if let (Some(nested), Some(outer)) = (raw.rope_theta, theta)
            && nested != outer
        {
            let expected = format!("{nested}, as in rope_parameters, or only one of both");
            return Err(unsupported(path, "rope_theta", &expected, outer.to_string()));
        }
        let theta = raw.rope_theta.or(theta).unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 1.0) {
            return Err(unsupported(path, "rope_theta", "a number above 1", theta.to_string()));
        }
        if let Some(part) = raw.partial_rotary_factor.filter(|&part| part != 1.0) {
            return Err(unsupported(path, "partial_rotary_factor", "1", part.to_string()));
        }
        let kind = raw.rope_type.as_deref().or(raw.r#type.as_deref()).unwrap_or("default");
        let number = |key: &str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(rope_error(path, kind, key, &value.to_string())),
            None => Err(rope_error(path, kind, key, "missing")),
        };
        let scaling = match kind {
            "default" => match raw.factor.filter(|&factor| factor != 1.0) {
                Some(factor) => {
                    let expected = "no `factor` with rope type default";
                    return Err(unsupported(path, "rope_scaling", expected, format!("`factor` {factor}")));
                }
                None => RopeScaling::None,
            },
            "linear" => RopeScaling::Linear { factor: number("factor", raw.factor)? },
            "dynamic" => {
                let original = raw.original_max_position_embeddings.unwrap_or(max_positions);
                RopeScaling::Dynamic { max_positions: original.min(max_positions) }
            }
            "llama3" => {
                let original = raw.original_max_position_embeddings.map(|positions| positions as f64);
                let low_freq_factor = number("low_freq_factor", raw.low_freq_factor)?;
                let high_freq_factor = number("high_freq_factor", raw.high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(rope_error(path, kind, "high_freq_factor", "at most low_freq_factor"));
                }
                RopeScaling::Llama3 {
                    factor: number("factor", raw.factor)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_positions: number("original_max_position_embeddings", original)? as i64,
                }
            }
            other => return Err(unsupported(path, "rope_type", SUPPORTED, other.to_owned())),
        };
        let neutral =
            |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(1.0);
        match raw
            .others
            .iter()
            .find(|(key, value)| !WITHOUT_EFFECT.contains(&key.as_str()) && !neutral(value))
        {
            Some((key, value)) => {
                let expected = format!("no `{key}` with rope type {kind}");
                Err(unsupported(path, "rope_scaling", &expected, format!("`{key}` {value}")))
            }
            None => Ok(Self { theta, scaling }),
        }
    }
}

/// The settings that hold for every layer, which may be kept by the kind of attention.
fn of_all_layers<'v>(path: &Path, settings: &'v Value) -> Result<&'v Value> {
    let kinds: Vec<&Value> = settings.as_object().into_iter().flat_map(Map::values).collect();
    if !kinds.iter().any(|value| value.is_object()) {
        return Ok(settings);
    }
    if kinds.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(kinds[0]);
    }
    Err(unsupported(path, "rope_parameters", "the same for all kinds of layers", settings.to_string()))
}

fn rope_error(path: &Path, kind: &str, key: &str, found: &str) -> Error {
    let expected = format!("a number above 0 as `{key}` of rope type {kind}");
    unsupported(path, "rope_scaling", &expected, format!("`{key}` {found}"))
}
