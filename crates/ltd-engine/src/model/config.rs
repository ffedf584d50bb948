//! Hugging Face `config.json` of targets and drafts: lenient as written, total once resolved.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// `config.json` as found: unknown keys are ignored, optional keys have Hugging Face's defaults.
#[derive(Debug, Deserialize)]
struct RawConfig {
    architectures: Option<Vec<String>>,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    max_position_embeddings: i64,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default = "default_theta")]
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_act")]
    hidden_act: String,
    draft_vocab_size: Option<i64>,
    target_hidden_size: Option<i64>,
}

fn default_eps() -> f64 {
    1e-6
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_act() -> String {
    "silu".to_owned()
}

/// Dimensions that a target's layers and an EAGLE-3 head's layer share.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockConfig {
    /// Width of the residual stream.
    pub hidden: i64,
    /// Inner width of the MLP.
    pub intermediate: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

/// A Llama-architecture target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetConfig {
    /// Dimensions of each layer.
    pub block: BlockConfig,
    /// Tokens.
    pub vocabulary: i64,
    /// Layers.
    pub layers: i64,
    /// Longest sequence the model was trained for.
    pub max_positions: i64,
    /// Whether the output projection is the embedding matrix.
    pub tied_embeddings: bool,
}

impl TargetConfig {
    /// Layers whose inputs are the draft's features: 2, n/2, n-3.
    pub fn feature_layers(&self) -> [i64; 3] {
        [2, self.layers / 2, self.layers - 3]
    }

    /// Reads `config.json` of a target folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::read(&folder.join("config.json"))
    }

    /// Reads the `config.json` of a target.
    pub fn read(path: &Path) -> Result<Self> {
        let raw = RawConfig::read(path)?;
        raw.check_architecture(path, "LlamaForCausalLM")?;
        // The feature layers must be distinct and have a layer after them.
        check(path, "num_hidden_layers", raw.num_hidden_layers, "at least 6", |n| n >= 6)?;
        Ok(Self {
            block: raw.block(path)?,
            vocabulary: raw.vocab_size,
            layers: raw.num_hidden_layers,
            max_positions: raw.max_position_embeddings,
            tied_embeddings: raw.tie_word_embeddings,
        })
    }
}

/// An EAGLE-3 head.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftConfig {
    /// Dimensions of its one layer (whose q/k/v read `2 * hidden`).
    pub block: BlockConfig,
    /// Target tokens (rows of the embedding).
    pub vocabulary: i64,
    /// Tokens it can propose.
    pub draft_vocabulary: i64,
    /// Width of the target's residual stream; `fc` reads three of them.
    pub target_hidden: i64,
}

impl DraftConfig {
    /// Reads `config.json` of an EAGLE-3 folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let raw = RawConfig::read(&path)?;
        raw.check_architecture(&path, "LlamaForCausalLMEagle3")?;
        check(&path, "num_hidden_layers", raw.num_hidden_layers, "1", |n| n == 1)?;
        let draft_vocabulary = raw.draft_vocab_size.unwrap_or(raw.vocab_size);
        check(&path, "draft_vocab_size", draft_vocabulary, "1..=vocab_size", |n| {
            (1..=raw.vocab_size).contains(&n)
        })?;
        Ok(Self {
            block: raw.block(&path)?,
            vocabulary: raw.vocab_size,
            draft_vocabulary,
            target_hidden: raw.target_hidden_size.unwrap_or(raw.hidden_size),
        })
    }
}

impl RawConfig {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
    }

    fn check_architecture(&self, path: &Path, expected: &str) -> Result<()> {
        match &self.architectures {
            Some(found) if found.iter().any(|name| name == expected) => Ok(()),
            Some(found) => Err(unsupported(path, "architectures", expected, found.join(", "))),
            None => Err(unsupported(path, "architectures", expected, "missing".to_owned())),
        }
    }

    fn block(&self, path: &Path) -> Result<BlockConfig> {
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
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        check(path, "head_dim", head_dim, "a positive even number", |n| n > 0 && n % 2 == 0)?;
        if let Some(scaling) = self.rope_scaling.as_ref().filter(|value| !value.is_null()) {
            return Err(unsupported(path, "rope_scaling", "null", scaling.to_string()));
        }
        if self.attention_bias {
            return Err(unsupported(path, "attention_bias", "false", "true".to_owned()));
        }
        if self.mlp_bias {
            return Err(unsupported(path, "mlp_bias", "false", "true".to_owned()));
        }
        if self.hidden_act != "silu" {
            return Err(unsupported(path, "hidden_act", "silu", self.hidden_act.clone()));
        }
        Ok(BlockConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            heads: self.num_attention_heads,
            kv_heads,
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
        })
    }
}

fn check(
    path: &Path,
    field: &'static str,
    value: i64,
    expected: &str,
    holds: impl Fn(i64) -> bool,
) -> Result<()> {
    if holds(value) { Ok(()) } else { Err(unsupported(path, field, expected, value.to_string())) }
}

fn unsupported(path: &Path, field: &'static str, expected: &str, found: String) -> Error {
    Error::ModelConfig { path: path.to_owned(), field, expected: expected.to_owned(), found }
}
