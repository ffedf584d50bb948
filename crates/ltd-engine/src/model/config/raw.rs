//! `config.json` as found: unknown keys are ignored, optional keys have Hugging Face's defaults.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::BlockConfig;
use super::rope::{RawRope, RopeConfig};
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
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "default_window")]
    sliding_window: Option<i64>,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<Value>,
    pub(super) draft_vocab_size: Option<i64>,
    pub(super) target_hidden_size: Option<i64>,
    #[serde(default)]
    pub(super) norm_before_residual: bool,
    #[serde(default)]
    fc_norm: bool,
    #[serde(default)]
    norm_output: bool,
    #[serde(default)]
    norm_before_fc: bool,
    pub(super) eagle_aux_hidden_state_layer_ids: Option<Vec<i64>>,
    pub(super) eagle_config: Option<EagleConfig>,
}

/// The part of a head's configuration that names its features.
#[derive(Debug, Deserialize)]
pub(super) struct EagleConfig {
    pub(super) eagle_aux_hidden_state_layer_ids: Option<Vec<i64>>,
}

fn default_eps() -> f64 {
    1e-6
}

fn default_act() -> String {
    "silu".to_owned()
}

/// Mistral's and Qwen's, when the key is not there at all; null means none.
#[expect(clippy::unnecessary_wraps, reason = "the type of the field whose default it is")]
fn default_window() -> Option<i64> {
    Some(4096)
}

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
    pub(super) fn parse(path: &Path, config: Value) -> Result<Self> {
        parse(path, serde_json::from_value(config))
    }

    /// Positions that a row sees at most, itself included; absent if all.
    pub(super) fn window(&self, family: Family) -> Option<i64> {
        match family {
            Family::Llama => None,
            Family::Mistral => self.sliding_window,
            Family::Qwen2 | Family::Qwen3 => self.sliding_window.filter(|_| self.use_sliding_window),
        }
    }

    /// Fails if a head computes what this engine does not.
    pub(super) fn check_head(&self, path: &Path) -> Result<()> {
        for (field, value) in [
            ("fc_norm", self.fc_norm),
            ("norm_output", self.norm_output),
            ("norm_before_fc", self.norm_before_fc),
        ] {
            if value {
                return Err(unsupported(
                    path,
                    field,
                    "false (EAGLE-3; this is a later variant)",
                    "true".to_owned(),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn block(&self, path: &Path, family: Family) -> Result<BlockConfig> {
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            check(path, field, value, "a positive number", |n| n > 0)?;
        }
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        check(path, "num_key_value_heads", kv_heads, "a divisor of num_attention_heads", |n| {
            n > 0 && self.num_attention_heads % n == 0
        })?;
        let derived = self.hidden_size / self.num_attention_heads;
        let default = if family == Family::Qwen3 { QWEN3_HEAD_DIM } else { derived };
        let head_dim = self.head_dim.unwrap_or(default);
        check(path, "head_dim", head_dim, "a positive even number", |n| n > 0 && n % 2 == 0)?;
        if self.hidden_act != "silu" {
            return Err(unsupported(path, "hidden_act", "silu", self.hidden_act.clone()));
        }
        if let Some(quantization) = self.quantization_config.as_ref().filter(|value| !value.is_null()) {
            let method = quantization["quant_method"].as_str().unwrap_or("an unnamed method").to_owned();
            return Err(unsupported(
                path,
                "quantization_config",
                "none: weights in f32, bf16 or f16",
                method,
            ));
        }
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let attention_bias = self.attention_bias && family != Family::Mistral;
        Ok(BlockConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            heads: self.num_attention_heads,
            kv_heads,
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            rope: RopeConfig::resolve(path, rope, self.rope_theta, self.max_position_embeddings)?,
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias && family != Family::Qwen2,
            mlp_bias: self.mlp_bias && family == Family::Llama,
            head_norms: family == Family::Qwen3,
        })
    }
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

/// The error of a value that the engine cannot run.
pub(in super::super) fn unsupported(
    path: &Path,
    field: &'static str,
    expected: &str,
    found: String,
) -> Error {
    Error::ModelConfig { path: path.to_owned(), field, expected: expected.to_owned(), found }
}
