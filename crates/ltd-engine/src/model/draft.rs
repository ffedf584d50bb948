//! EAGLE-3 head (arXiv 2503.01840): one decoder layer that reads the target's features.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::{DraftConfig, FeatureNorm, TargetConfig, unsupported};
use super::layers::{Attention, AttentionPlan, Best, Embedding, Linear, Mlp, RmsNorm, RotaryTable, Rows};
use super::vocabulary_map::target_ids;
use super::weights::Weights;
use crate::kv_cache::KvCache;
use crate::transfer::{Upload, Waited};
use crate::{Error, Result};

const ROWS: i64 = 0;
const COLUMNS: i64 = 1;

/// The draft model.
pub(crate) struct DraftModel {
    config: DraftConfig,
    embedding: Embedding,
    /// Of each feature, of all together, or none: in the order of the columns that they norm.
    feature_norms: Vec<RmsNorm>,
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
    /// Loads an EAGLE-3 folder for a target; `embedding` is the target's, used when the folder has
    /// none and the widths are the same.
    pub(crate) fn load(
        folder: &Path,
        config: DraftConfig,
        embedding: &Embedding,
        positions: i64,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        let mut weights = Weights::open(folder, kind)?;
        weights.move_to(device);
        weights.discard_suffix(".rotary_emb.inv_freq");
        Self::from_weights(weights, config, embedding, positions, device)
    }

    /// A head of the given weights, on the device that they go to.
    pub(crate) fn from_weights(
        mut weights: Weights,
        config: DraftConfig,
        embedding: &Embedding,
        positions: i64,
        device: Device,
    ) -> Result<Self> {
        let block = &config.block;
        let hidden = block.hidden;
        let norm =
            |weights: &mut Weights, name: &str| RmsNorm::load(weights, name, hidden, block.rms_norm_eps);
        let layer = if weights.contains_prefix("layers.0.") { "layers.0" } else { "midlayer" };
        let feature_norms: Vec<(String, i64)> = match config.feature_norm {
            FeatureNorm::None => Vec::new(),
            FeatureNorm::Each => {
                (0..3).map(|feature| (format!("fc_norm.{feature}"), config.target_hidden)).collect()
            }
            FeatureNorm::Together => vec![("input_norm".to_owned(), 3 * config.target_hidden)],
        };
        let feature_norms = feature_norms
            .iter()
            .map(|(name, width)| RmsNorm::load(&mut weights, name, *width, block.rms_norm_eps))
            .collect::<Result<_>>()?;
        let fc = Linear::load(&mut weights, "fc", [hidden, 3 * config.target_hidden], false)?;
        let input_norm = norm(&mut weights, &format!("{layer}.input_layernorm"))?;
        let hidden_norm = norm(&mut weights, &format!("{layer}.hidden_norm"))?;
        let attention = Attention::load(&mut weights, &format!("{layer}.self_attn"), block, 2 * hidden)?;
        let post_attention_norm = norm(&mut weights, &format!("{layer}.post_attention_layernorm"))?;
        let mlp = Mlp::load(&mut weights, &format!("{layer}.mlp"), block)?;
        let final_norm = norm(&mut weights, "norm")?;
        let embedding = if Self::shares_embedding(&config, &weights) {
            embedding.to_device(device)?
        } else {
            Embedding::load(&mut weights, "embed_tokens.weight", [config.vocabulary, hidden])?
        };
        let output = if config.output_is_embedding() {
            Linear::tied(&mut weights, "lm_head", &embedding)?
        } else {
            Linear::load(&mut weights, "lm_head", [config.draft_vocabulary, hidden], false)?
        };
        let target_ids = target_ids(&config, &mut weights)?;
        let kind = weights.kind();
        weights.finish()?;
        let rotary = RotaryTable::new(positions, block.head_dim, &block.rope);
        let rotary = rotary.on_devices([device].into_iter().filter(|device| device.is_cuda()), kind)?;
        Ok(Self {
            embedding,
            feature_norms,
            fc,
            input_norm,
            hidden_norm,
            attention,
            post_attention_norm,
            mlp,
            norm: final_norm,
            output,
            rotary,
            target_ids,
            config,
        })
    }

    /// Whether a head of these weights reads the target's embedding.
    pub(crate) fn shares_embedding(config: &DraftConfig, weights: &Weights) -> bool {
        config.block.hidden == config.target_hidden && !weights.contains("embed_tokens.weight")
    }

    /// The largest target token that a head with a vocabulary of its own proposes. (A head with all
    /// of the target's has the padding of its vocabulary too.)
    pub(crate) fn largest_token(&self) -> Option<u32> {
        let own = self.config.draft_vocabulary < self.config.vocabulary;
        self.target_ids.iter().copied().max().filter(|_| own)
    }

    pub(crate) fn config(&self) -> &DraftConfig {
        &self.config
    }

    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Projects the target's features to the draft's residual stream: `[n, 3 * target_hidden] ->
    /// [n, hidden]`.
    pub(crate) fn project(&self, features: &Tensor) -> Result<Tensor> {
        if self.feature_norms.is_empty() {
            return self.fc.forward(features);
        }
        let parts = features.f_chunk(self.feature_norms.len() as i64, COLUMNS)?;
        let normed =
            self.feature_norms.iter().zip(&parts).map(|(norm, part)| norm.forward(&part.f_contiguous()?));
        self.fc.forward(&Tensor::f_cat(&normed.collect::<Result<Vec<_>>>()?, COLUMNS)?)
    }

    /// Runs rows of tokens and of `hidden`, `[n, hidden]`, of which `parents` are taken if they are
    /// given; returns what the next level reads and [`DraftModel::logits`] are made of: the layer's
    /// output `[rows, hidden]`, normed if the head norms its output. It may lie in the memory of
    /// `hidden`, which is not to be read any more.
    pub(crate) fn forward(
        &self,
        rows: &Rows,
        hidden: &Tensor,
        parents: Option<&[i64]>,
        cache: &KvCache,
    ) -> Result<Tensor> {
        let mut upload = Upload::default();
        let place = (hidden.kind(), hidden.device());
        let plan = AttentionPlan::prepare(&mut upload, rows, &self.rotary, &self.config.block, place);
        let tokens = upload.add_indices(rows.token_ids());
        let parents = parents.map(|parents| upload.add_indices(parents.iter().copied()));
        let uploaded = upload.send(hidden.device())?;
        let plan = plan(&uploaded)?;
        let of_parents = parents.map(|parents| hidden.f_index_select(ROWS, &uploaded.get(parents)));
        let of_parents = of_parents.transpose()?;
        let hidden = of_parents.as_ref().unwrap_or(hidden);

        let embedded = self.embedding.forward(&uploaded.get(tokens))?;
        let normed = self.hidden_norm.forward(hidden)?;
        let input = Tensor::f_cat(&[&self.input_norm.forward(&embedded)?, &normed], COLUMNS)?;
        let residual = if self.config.norm_before_residual { &normed } else { hidden };
        let x = self.attention.forward(&input, None, residual, &plan, cache.layer(0))?;
        let output = self.mlp.forward(&x, &self.post_attention_norm)?;
        if self.config.norm_output { self.norm.forward(&output) } else { Ok(output) }
    }

    /// Scores of all draft tokens after each row of an output, `[n, hidden] -> [n,
    /// draft_vocabulary]`.
    pub(crate) fn logits(&self, output: &Tensor) -> Result<Tensor> {
        let norm = (!self.config.norm_output).then_some(&self.norm);
        self.output.forward_scores(output, norm)
    }

    /// The continuations that were fetched ([`best_log_probs`](super::best_log_probs)).
    pub(crate) fn continuations(&self, best: Best, waited: &Waited) -> Result<Continuations> {
        let (log_probs, ids) = best.read(waited)?;
        Ok(Continuations {
            log_probs,
            tokens: ids.into_iter().map(|id| self.target_ids[id as usize]).collect(),
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
        let inputs = target_config.feature_layers();
        if let Some(found) = &config.feature_layers
            && found[..] != inputs
            && found[..] != inputs.map(|layer| layer - 1)
        {
            // Some count a layer by its input, others by the output of the one before.
            return Err(unsupported(
                &draft.join("config.json"),
                "eagle_aux_hidden_state_layer_ids",
                &format!("{inputs:?}, the features of a target of {} layers", target_config.layers),
                format!("{found:?}"),
            ));
        }
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
