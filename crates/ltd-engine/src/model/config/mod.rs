//! Hugging Face `config.json` of targets and drafts: lenient as written, total once resolved.

mod block;
mod foreign_keys;
mod raw;
mod rope;
mod unsupported;

use std::path::Path;

use serde_json::Value;

use crate::Result;
use raw::{Family, RawConfig, architecture, check, check_dimension, read_json};

pub use block::BlockConfig;
pub use rope::{RopeConfig, RopeScaling};
pub(super) use unsupported::unsupported;

/// Architectures that a target may have: dense decoders with rotary attention and a gated MLP.
const TARGETS: [(&str, Family); 4] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
];

/// Names under which EAGLE-3 heads are published: those of `SpecForge`, `AngelSlim` and
/// `speculators`, and the one in EAGLE's own repositories.
const DRAFTS: [(&str, ()); 5] = [
    ("LlamaForCausalLMEagle3", ()),
    ("Eagle3LlamaForCausalLM", ()),
    ("Eagle3Speculator", ()),
    ("Eagle3DraftModel", ()),
    ("LlamaForCausalLM", ()),
];

/// A target.
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
    /// Positions that a row sees at most, itself included; absent if all.
    pub sliding_window: Option<i64>,
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
        let config = read_json(path)?;
        let family = architecture(path, &config, &TARGETS)?;
        let raw = RawConfig::parse(path, config)?;
        // The feature layers must be distinct and have a layer after them.
        check(path, "num_hidden_layers", raw.num_hidden_layers, "at least 7", |n| n >= 7)?;
        Ok(Self {
            block: raw.block(path, family)?,
            vocabulary: raw.vocab_size,
            layers: raw.num_hidden_layers,
            max_positions: raw.max_position_embeddings,
            sliding_window: raw.window(path, family)?,
            tied_embeddings: raw.tie_word_embeddings,
        })
    }

    /// Fails if some row of a cache of `capacity` positions would not see all others: windows are
    /// not implemented.
    pub(crate) fn check_window(&self, folder: &Path, capacity: usize) -> Result<()> {
        check_window(folder, self.sliding_window, capacity as i64)
    }
}

fn check_window(folder: &Path, window: Option<i64>, capacity: i64) -> Result<()> {
    match window.filter(|&window| window < capacity) {
        Some(window) => Err(unsupported(
            &folder.join("config.json"),
            "sliding_window",
            &format!("null or at least max_length = {capacity}, the positions of the cache"),
            window.to_string(),
        )),
        None => Ok(()),
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
    /// Whether the residual stream of the layer is the normed hidden state rather than the hidden
    /// state.
    pub norm_before_residual: bool,
    /// What is normed before `fc`.
    pub feature_norm: FeatureNorm,
    /// Whether a row's output is normed before the next level reads it (EAGLE-3.1, arXiv
    /// 2605.09992).
    pub norm_output: bool,
    /// Positions that a row sees at most, itself included; absent if all.
    pub sliding_window: Option<i64>,
    /// Whether its output projection is said to be its embedding.
    pub tied_embeddings: bool,
    /// Layers that it was trained to read, as the configuration names them, if it does.
    pub feature_layers: Option<Vec<i64>>,
}

/// What a head norms of the target's features before `fc` reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureNorm {
    /// Nothing (EAGLE-3).
    None,
    /// Each of the three features for itself (EAGLE-3.1, arXiv 2605.09992).
    Each,
    /// All three as one vector (heads for gpt-oss).
    Together,
}

impl DraftConfig {
    /// Reads `config.json` of an EAGLE-3 folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config = read_json(&path)?;
        architecture(&path, &config, &DRAFTS)?;
        let raw = RawConfig::parse(&path, flatten(config))?;
        check(&path, "num_hidden_layers", raw.num_hidden_layers, "1", |n| n == 1)?;
        let draft_vocabulary = raw.draft_vocab_size.unwrap_or(raw.vocab_size);
        check(&path, "draft_vocab_size", draft_vocabulary, "1..=vocab_size", |n| {
            (1..=raw.vocab_size).contains(&n)
        })?;
        let target_hidden = raw.target_hidden_size.unwrap_or(raw.hidden_size);
        check_dimension(&path, "target_hidden_size", target_hidden)?;
        Ok(Self {
            block: raw.block(&path, Family::Llama)?,
            vocabulary: raw.vocab_size,
            draft_vocabulary,
            target_hidden,
            norm_before_residual: raw.norm_before_residual,
            feature_norm: raw.feature_norm(&path)?,
            norm_output: raw.norm_output,
            sliding_window: raw.window(&path, Family::Llama)?,
            tied_embeddings: raw.tie_word_embeddings,
            feature_layers: feature_layers(&raw),
        })
    }

    /// Whether its output projection is its embedding. That to a vocabulary of its own is none,
    /// whatever the configuration says.
    pub(crate) fn output_is_embedding(&self) -> bool {
        self.tied_embeddings && self.draft_vocabulary == self.vocabulary
    }

    /// Fails if the head's rotary frequencies are not defined for so many positions, or a row would
    /// not see them all.
    pub(crate) fn check_length(&self, folder: &Path, positions: i64) -> Result<()> {
        check_window(folder, self.sliding_window, positions)?;
        match self.block.rope.limit().filter(|&limit| limit < positions) {
            Some(limit) => Err(unsupported(
                &folder.join("config.json"),
                "max_position_embeddings",
                &format!(
                    "at least {positions}, the positions that max_length and max_depth need, with dynamic rope scaling"
                ),
                limit.to_string(),
            )),
            None => Ok(()),
        }
    }
}

/// The named feature layers, at either place where heads keep them.
fn feature_layers(raw: &RawConfig) -> Option<Vec<i64>> {
    let nested = raw.eagle_config.as_ref().and_then(|eagle| eagle.eagle_aux_hidden_state_layer_ids.as_ref());
    nested.or(raw.eagle_aux_hidden_state_layer_ids.as_ref()).cloned()
}

/// Speculators' configurations keep the layer's dimensions in `transformer_layer_config`.
fn flatten(mut config: Value) -> Value {
    let Some(Value::Object(mut layer)) = config.get_mut("transformer_layer_config").map(Value::take) else {
        return config;
    };
    // Where their configuration does not say, their runtimes assume it.
    layer.insert("norm_before_residual".to_owned(), Value::Bool(true));
    if let Value::Object(outer) = config {
        layer.extend(outer.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(layer)
}
