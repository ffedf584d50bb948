//! EAGLE-3 head (arXiv 2503.01840): one decoder layer that reads the target's features.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::{DraftConfig, TargetConfig};
use super::layers::{Attention, AttentionMask, AttentionPlan, Linear, Mlp, RmsNorm, RotaryTable};
use super::weights::Weights;
use crate::kv_cache::KvCache;
use crate::{Error, Result};

const COLUMNS: i64 = 1;

/// The draft model.
pub(crate) struct DraftModel {
    config: DraftConfig,
    embedding: Tensor,
    fc: Linear,
    input_norm: RmsNorm,
    hidden_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
    norm: RmsNorm,
    output: Linear,
    rotary: RotaryTable,
    /// Target token of each draft token.
    target_ids: Vec<u32>,
}

/// The best continuations of some rows, on the host.
pub(crate) struct Continuations {
    /// `[rows, width]`, row-major, best first within a row.
    pub(crate) log_probs: Vec<f32>,
    /// Target-vocabulary tokens, same order.
    pub(crate) tokens: Vec<u32>,
}

impl DraftModel {
    /// Loads an EAGLE-3 folder for a target; `embedding` is the target's, used when the folder has none.
    pub(crate) fn load(
        folder: &Path,
        config: DraftConfig,
        embedding: &Tensor,
        positions: i64,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        Self::from_weights(Weights::load(folder, device, kind)?, config, embedding, positions)
    }

    /// A head of the given weights.
    pub(crate) fn from_weights(
        mut weights: Weights,
        config: DraftConfig,
        embedding: &Tensor,
        positions: i64,
    ) -> Result<Self> {
        let block = &config.block;
        let hidden = block.hidden;
        let norm =
            |weights: &mut Weights, name: &str| RmsNorm::load(weights, name, hidden, block.rms_norm_eps);
        let fc = weights.take("fc.weight", &[hidden, 3 * config.target_hidden])?;
        let input_norm = norm(&mut weights, "midlayer.input_layernorm")?;
        let hidden_norm = norm(&mut weights, "midlayer.hidden_norm")?;
        let attention = Attention::load(&mut weights, "midlayer.self_attn", block, 2 * hidden)?;
        let post_attention_norm = norm(&mut weights, "midlayer.post_attention_layernorm")?;
        let mlp = Mlp::load(&mut weights, "midlayer.mlp", block)?;
        let final_norm = norm(&mut weights, "norm")?;
        let output = weights.take("lm_head.weight", &[config.draft_vocabulary, hidden])?;
        let embedding = if weights.contains("embed_tokens.weight") {
            weights.take("embed_tokens.weight", &[config.vocabulary, hidden])?
        } else {
            embedding.shallow_clone()
        };
        let target_ids = target_ids(&config, &mut weights)?;
        weights.finish()?;
        let rotary = RotaryTable::new(positions, block.head_dim, block.rope_theta);
        Ok(Self {
            embedding,
            fc: Linear::new(fc),
            input_norm,
            hidden_norm,
            attention,
            post_attention_norm,
            mlp,
            norm: final_norm,
            output: Linear::new(output),
            rotary,
            target_ids,
            config,
        })
    }

    pub(crate) fn config(&self) -> &DraftConfig {
        &self.config
    }

    pub(crate) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// Projects the target's features to the draft's residual stream: `[n, 3 * target_hidden] -> [n, hidden]`.
    pub(crate) fn project(&self, features: &Tensor) -> Tensor {
        self.fc.forward(features)
    }

    /// Runs rows of `tokens` and `hidden` (`[n]`, `[n, hidden]`) at `positions`, with `past` cached rows before
    /// them; returns the layer's output `[n, hidden]`.
    pub(crate) fn forward(
        &self,
        tokens: &Tensor,
        hidden: &Tensor,
        positions: &[i64],
        mask: AttentionMask,
        cache: &KvCache,
        past: i64,
    ) -> Tensor {
        let embedded = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        let input =
            Tensor::cat(&[self.input_norm.forward(&embedded), self.hidden_norm.forward(hidden)], COLUMNS);
        let plan = AttentionPlan::new(&self.rotary, positions, past, mask, &self.config.block, &input);
        let x = self.attention.forward(&input, hidden, &plan, cache.layer(0));
        self.mlp.forward(&self.post_attention_norm.forward(&x), &x)
    }

    /// Scores of all draft tokens after each row of a layer output, `[n, hidden] -> [n, draft_vocabulary]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Tensor {
        self.output.forward(&self.norm.forward(hidden))
    }

    /// The `width` most probable tokens of each row of logits, with one transfer to the host.
    pub(crate) fn continuations(&self, logits: &Tensor, width: usize) -> Result<Continuations> {
        let (log_probs, ids) =
            logits.log_softmax(COLUMNS, Kind::Float).topk(width as i64, COLUMNS, true, true);
        // Token ids below 2^24 are exact in f32, so that one tensor carries both.
        let both: Vec<f32> =
            Vec::try_from(Tensor::cat(&[log_probs, ids.to_kind(Kind::Float)], COLUMNS).view(-1))?;
        let rows = both.chunks_exact(2 * width);
        Ok(Continuations {
            log_probs: rows.clone().flat_map(|row| row[..width].iter().copied()).collect(),
            tokens: rows
                .flat_map(|row| row[width..].iter().map(|&id| self.target_ids[id as usize]))
                .collect(),
        })
    }

    /// Fails unless this head was made for such a target.
    pub(crate) fn check_fit(
        config: &DraftConfig,
        draft: &Path,
        target_config: &TargetConfig,
        target: &Path,
    ) -> Result<()> {
        let target_hidden = target_config.block.hidden;
        for (what, draft_value, target_value) in [
            ("hidden size read from the target", config.target_hidden, target_hidden),
            ("vocabulary", config.vocabulary, target_config.vocabulary),
        ] {
            if draft_value != target_value {
                return Err(Error::DraftMismatch {
                    draft: draft.to_owned(),
                    target: target.to_owned(),
                    what,
                    draft_value,
                    target_value,
                });
            }
        }
        Ok(())
    }
}

/// Reads `d2t` (offsets from draft to target ids); a head with the full vocabulary may have none.
fn target_ids(config: &DraftConfig, weights: &mut Weights) -> Result<Vec<u32>> {
    // `t2d` marks the covered target tokens: the image of `d2t`, nothing new.
    weights.discard("t2d");
    let count = config.draft_vocabulary;
    if count == config.vocabulary && !weights.contains("d2t") {
        return Ok((0..count as u32).collect());
    }
    let offsets: Vec<i64> = Vec::try_from(weights.take("d2t", &[count])?.to_kind(Kind::Int64))?;
    let map = offsets.iter().enumerate().map(|(draft_id, offset)| {
        let target_id = draft_id as i64 + offset;
        if (0..config.vocabulary).contains(&target_id) {
            Ok(target_id as u32)
        } else {
            let vocabulary = config.vocabulary;
            Err(Error::VocabularyMap { folder: weights.folder().to_owned(), draft_id, target_id, vocabulary })
        }
    });
    map.collect()
}
