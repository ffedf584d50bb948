//! Llama-architecture target: logits, and the features that the draft reads.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::TargetConfig;
use super::layers::{Attention, AttentionMask, AttentionPlan, Linear, Mlp, RmsNorm, RotaryTable};
use super::weights::Weights;
use crate::Result;
use crate::kv_cache::KvCache;
use crate::operations::{Observer, Operation, Unobserved};

const ROWS: i64 = 0;
const COLUMNS: i64 = 1;

/// The LLM whose output is preserved.
pub(crate) struct TargetModel {
    config: TargetConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
    rotary: RotaryTable,
}

struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
}

/// For which rows of a forward logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogitRows {
    All,
    Last,
}

/// What a target forward yields.
pub(crate) struct TargetOutput {
    /// `[n or 1, vocabulary]`.
    pub(crate) logits: Tensor,
    /// Inputs of the three feature layers, `[n, 3 * hidden]`.
    pub(crate) features: Tensor,
}

impl TargetModel {
    /// Loads the weights of a folder; `positions` bounds the sequence length.
    pub(crate) fn load(
        folder: &Path,
        config: TargetConfig,
        positions: i64,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        Self::from_weights(Weights::load(folder, device, kind)?, config, positions)
    }

    /// A model of the given weights.
    pub(crate) fn from_weights(mut weights: Weights, config: TargetConfig, positions: i64) -> Result<Self> {
        let block = &config.block;
        let embedding = weights.take("model.embed_tokens.weight", &[config.vocabulary, block.hidden])?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut weights, &format!("model.layers.{i}"), &config));
        let layers = layers.collect::<Result<_>>()?;
        let norm = RmsNorm::load(&mut weights, "model.norm", block.hidden, block.rms_norm_eps)?;
        let output = if config.tied_embeddings {
            weights.discard("lm_head.weight");
            embedding.shallow_clone()
        } else {
            weights.take("lm_head.weight", &[config.vocabulary, block.hidden])?
        };
        weights.finish()?;
        let output = Linear::new(output);
        let rotary = RotaryTable::new(positions, block.head_dim, block.rope_theta);
        Ok(Self { config, embedding, layers, norm, output, rotary })
    }

    pub(crate) fn config(&self) -> &TargetConfig {
        &self.config
    }

    pub(crate) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// Runs the rows `tokens` (`[n]`, int64) at `positions` on top of the certain part of the cache. Their keys and
    /// values are provisional in the cache afterwards.
    pub(crate) fn forward(
        &self,
        tokens: &Tensor,
        positions: &[i64],
        mask: AttentionMask,
        cache: &KvCache,
        logit_rows: LogitRows,
    ) -> TargetOutput {
        self.observed_forward(tokens, positions, mask, cache, logit_rows, &mut Unobserved)
    }

    /// [`TargetModel::forward`], part by part under the eyes of an observer.
    pub(crate) fn observed_forward(
        &self,
        tokens: &Tensor,
        positions: &[i64],
        mask: AttentionMask,
        cache: &KvCache,
        logit_rows: LogitRows,
        observer: &mut impl Observer,
    ) -> TargetOutput {
        let feature_layers = self.config.feature_layers();
        let mut features = Vec::with_capacity(feature_layers.len());
        let mut x = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        let plan = AttentionPlan::new(&self.rotary, positions, cache.len(), mask, &self.config.block, &x);
        for (index, layer) in self.layers.iter().enumerate() {
            if feature_layers.contains(&(index as i64)) {
                features.push(x.shallow_clone());
            }
            // Nothing in place: the features keep the old values.
            let normed = observer.observe(Operation::Norms, || layer.input_norm.forward(&x));
            let attention = || layer.attention.forward(&normed, &x, &plan, cache.layer(index));
            let attended = observer.observe(Operation::Attention, attention);
            let normed = observer.observe(Operation::Norms, || layer.post_attention_norm.forward(&attended));
            x = observer.observe(Operation::Mlp, || layer.mlp.forward(&normed, &attended));
        }
        if logit_rows == LogitRows::Last {
            x = x.narrow(ROWS, x.size()[0] - 1, 1);
        }
        TargetOutput {
            logits: observer.observe(Operation::Logits, || self.output.forward(&self.norm.forward(&x))),
            features: Tensor::cat(&features, COLUMNS),
        }
    }
}

impl Layer {
    fn load(weights: &mut Weights, name: &str, config: &TargetConfig) -> Result<Self> {
        let block = &config.block;
        let norm = |weights: &mut Weights, norm: &str| {
            RmsNorm::load(weights, &format!("{name}.{norm}"), block.hidden, block.rms_norm_eps)
        };
        Ok(Self {
            input_norm: norm(weights, "input_layernorm")?,
            attention: Attention::load(weights, &format!("{name}.self_attn"), block, block.hidden)?,
            post_attention_norm: norm(weights, "post_attention_layernorm")?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), block)?,
        })
    }
}
