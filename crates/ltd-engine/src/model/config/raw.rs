//! `config.json` as found: optional keys have Hugging Face's defaults; of the keys that are not
//! read here, those of [`foreign_keys`] are checked, the others ignored.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::FeatureNorm;
use super::block::BlockConfig;
use super::foreign_keys::{self, Own};
use super::rope::RopeConfig;
use super::unsupported::unsupported;
use crate::{Error, Result};

/// What the layers of the supported architectures differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of a file that others write")]
pub(super) struct RawConfig {
    pub(super) vocab_size: i64,
    pub(super) hidden_size: i64,
    intermediate_size: i64,
    pub(super) num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    pub(super) max_position_embeddings: i64,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_act")]
    hidden_act: String,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<i64>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    pub(super) draft_vocab_size: Option<i64>,
    pub(super) target_hidden_size: Option<i64>,
    #[serde(default)]
    pub(super) norm_before_residual: bool,
    #[serde(default)]
    fc_norm: bool,
    #[serde(default)]
    pub(super) norm_output: bool,
    norm_before_fc: Option<bool>,
    pub(super) eagle_aux_hidden_state_layer_ids: Option<Vec<i64>>,
    pub(super) eagle_config: Option<EagleConfig>,
    /// All other keys.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The part of a head's configuration that names its features.
#[derive(Debug, Deserialize)]
pub(super) struct EagleConfig {
    pub(super) eagle_aux_hidden_state_layer_ids: Option<Vec<i64>>,
    norm_before_fc: Option<bool>,
}

fn default_eps() -> f64 {
    1e-6
}

fn default_act() -> String {
    "silu".to_owned()
}

/// The key of which null says something else than its absence.
const WINDOW: &str = "sliding_window";
/// Mistral's and Qwen's, when the key is not there at all; null means none.
const DEFAULT_WINDOW: i64 = 4096;
/// Layers of Qwen's models that see all positions, from the first on, when the key is not there.
const DEFAULT_WINDOW_LAYERS: i64 = 28;
/// No dimension of a model is larger, so that products of a few cannot overflow.
const LARGEST_DIMENSION: i64 = 1 << 22;
const MOST_LAYERS: i64 = 1 << 12;
const MOST_POSITIONS: i64 = 1 << 31;

/// A head width that Qwen3's configurations may leave out.
const QWEN3_HEAD_DIM: i64 = 128;

/// Reads a JSON object.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = ltd_policy::read_text(path).map_err(Error::io(path))?;
    parse(path, serde_json::from_str(&text))
}

/// The first of the `supported` architectures that a configuration names.
pub(super) fn architecture<T: Copy>(path: &Path, config: &Value, supported: &[(&str, T)]) -> Result<T> {
    let names: Vec<&str> =
        config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let known = names.iter().find_map(|name| supported.iter().find(|(known, _)| known == name));
    known.map(|&(_, value)| value).ok_or_else(|| {
        let expected: Vec<&str> = supported.iter().map(|&(name, _)| name).collect();
        let found = if names.is_empty() { "missing".to_owned() } else { names.join(", ") };
        unsupported(path, "architectures", &one_of(&expected), found)
    })
}

fn one_of(names: &[&str]) -> String {
    match names {
        [only] => (*only).to_owned(),
        names => format!("one of {}", names.join(", ")),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, result: serde_json::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Json { path: path.to_owned(), source })
}

impl RawConfig {
    /// Reads a configuration; what is null is as if it were missing.
    pub(super) fn parse(path: &Path, mut config: Value) -> Result<Self> {
        if let Value::Object(keys) = &mut config {
            keys.retain(|key, value| !value.is_null() || key == WINDOW);
        }
        parse(path, serde_json::from_value(config))
    }

    /// Positions that a row sees at most, itself included; absent if all.
    pub(super) fn window(&self, path: &Path, family: Family) -> Result<Option<i64>> {
        let slides = |kind: &String| kind == "sliding_attention";
        let known = |kind: &String| slides(kind) || kind == "full_attention";
        let types = self.layer_types.as_deref().unwrap_or_default();
        if let Some(other) = types.iter().find(|kind| !known(kind)) {
            let expected = "full_attention, or sliding_attention with a window that hides nothing";
            return Err(unsupported(path, "layer_types", expected, other.clone()));
        }
        let sliding = types.iter().any(slides);
        let in_use = sliding
            || match family {
                // Whatever its other keys say.
                Family::Mistral => true,
                Family::Llama => types.is_empty() && self.use_sliding_window != Some(false),
                Family::Qwen2 | Family::Qwen3 => {
                    let full = self.max_window_layers.unwrap_or(DEFAULT_WINDOW_LAYERS);
                    types.is_empty() && self.use_sliding_window == Some(true) && full < self.num_hidden_layers
                }
            };
        let window = match self.others.get(WINDOW) {
            None => (family != Family::Llama).then_some(DEFAULT_WINDOW),
            Some(Value::Null) => None,
            Some(value) => match value.as_i64() {
                Some(window) => Some(window),
                None => return Err(unsupported(path, WINDOW, "null or a number", value.to_string())),
            },
        };
        let window = window.filter(|_| in_use);
        if sliding && window.is_none() {
            let expected = "full_attention, as there is no sliding_window";
            return Err(unsupported(path, "layer_types", expected, "sliding_attention".to_owned()));
        }
        Ok(window)
    }

    /// What a head norms before `fc`.
    pub(super) fn feature_norm(&self, path: &Path) -> Result<FeatureNorm> {
        let nested = self.eagle_config.as_ref().and_then(|config| config.norm_before_fc);
        match (self.fc_norm, self.norm_before_fc.or(nested).unwrap_or(false)) {
            (true, true) => {
                let expected = "false beside fc_norm (the features are normed one by one, or together)";
                Err(unsupported(path, "norm_before_fc", expected, "true".to_owned()))
            }
            (true, false) => Ok(FeatureNorm::Each),
            (false, true) => Ok(FeatureNorm::Together),
            (false, false) => Ok(FeatureNorm::None),
        }
    }

    pub(super) fn block(&self, path: &Path, family: Family) -> Result<BlockConfig> {
        check_dimension(path, "vocab_size", self.vocab_size)?;
        check_dimension(path, "hidden_size", self.hidden_size)?;
        check_dimension(path, "intermediate_size", self.intermediate_size)?;
        check_dimension(path, "num_attention_heads", self.num_attention_heads)?;
        let positions = self.max_position_embeddings;
        let expected = format!("a number from 1 to {MOST_POSITIONS}");
        check(path, "max_position_embeddings", positions, &expected, |n| (1..=MOST_POSITIONS).contains(&n))?;
        check(path, "num_hidden_layers", self.num_hidden_layers, &format!("at most {MOST_LAYERS}"), |n| {
            n <= MOST_LAYERS
        })?;
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        check(path, "num_key_value_heads", kv_heads, "a divisor of num_attention_heads", |n| {
            n > 0 && self.num_attention_heads % n == 0
        })?;
        let derived = self.hidden_size / self.num_attention_heads;
        let default = if family == Family::Qwen3 { QWEN3_HEAD_DIM } else { derived };
        let head_dim = self.head_dim.unwrap_or(default);
        let widest = LARGEST_DIMENSION / self.num_attention_heads;
        let expected = format!("a positive even number up to {widest}");
        check(path, "head_dim", head_dim, &expected, |n| (1..=widest).contains(&n) && n % 2 == 0)?;
        if !(0.0..1.0).contains(&self.rms_norm_eps) {
            let found = self.rms_norm_eps.to_string();
            return Err(unsupported(path, "rms_norm_eps", "a number from 0 to 1", found));
        }
        if !["silu", "swish"].contains(&self.hidden_act.as_str()) {
            return Err(unsupported(path, "hidden_act", "silu", self.hidden_act.clone()));
        }
        if let Some(quantization) = &self.quantization_config {
            let method = quantization["quant_method"].as_str().unwrap_or("an unnamed method").to_owned();
            return Err(unsupported(
                path,
                "quantization_config",
                "none: weights in f32, bf16 or f16",
                method,
            ));
        }
        for (field, value, computed) in [
            ("attention_bias", self.attention_bias, family != Family::Mistral),
            ("mlp_bias", self.mlp_bias, family == Family::Llama),
        ] {
            if value && !computed {
                return Err(unsupported(path, field, "false for this architecture", "true".to_owned()));
            }
        }
        let rope = self.rope(path)?;
        foreign_keys::check(path, &self.others, Own { head_dim, rope_theta: rope.theta })?;
        Ok(BlockConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            heads: self.num_attention_heads,
            kv_heads,
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            rope,
            qkv_bias: self.attention_bias || family == Family::Qwen2,
            output_bias: self.attention_bias && family != Family::Qwen2,
            mlp_bias: self.mlp_bias,
            head_norms: family == Family::Qwen3,
        })
    }

    /// What is said in more than one place must be the same in all.
    fn rope(&self, path: &Path) -> Result<RopeConfig> {
        let [old, new] = [&self.rope_scaling, &self.rope_parameters].map(Option::as_ref);
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            let expected = format!("as rope_parameters, {new}, or only one of both");
            return Err(unsupported(path, "rope_scaling", &expected, old.to_string()));
        }
        RopeConfig::resolve(path, new.or(old), self.rope_theta, self.max_position_embeddings)
    }
}

/// A width or a number of things.
pub(super) fn check_dimension(path: &Path, field: &'static str, value: i64) -> Result<()> {
    let expected = format!("a number from 1 to {LARGEST_DIMENSION}");
    check(path, field, value, &expected, |n| (1..=LARGEST_DIMENSION).contains(&n))
}

pub(super) fn check(
    path: &Path,
    field: &'static str,
    value: i64,
    expected: &str,
    holds: impl Fn(i64) -> bool,
) -> Result<()> {
    if holds(value) { Ok(()) } else { Err(unsupported(path, field, expected, value.to_string())) }
}
