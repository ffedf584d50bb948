//! The target: logits, and the features that the draft reads.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::{BlockConfig, TargetConfig};
use super::layers::{Attention, AttentionPlan, Embedding, Linear, Mlp, RmsNorm, RotaryTable, Rows};
use super::weights::Weights;
use crate::Result;
use crate::kv_cache::KvCache;
use crate::measure::operations::{Observer, Operation, Unobserved};
use crate::placement::Share;
use crate::transfer::{Upload, Uploaded};

const ROWS: i64 = 0;
const COLUMNS: i64 = 1;

/// The LLM whose output is preserved.
pub(crate) struct TargetModel {
    config: TargetConfig,
    embedding: Embedding,
    /// On their devices, in order; the embedding is on the first one, norm and output on the last.
    stages: Vec<Stage>,
    norm: RmsNorm,
    output: Linear,
    rotary: RotaryTable,
    kind: Kind,
}

/// Consecutive layers on one device.
struct Stage {
    device: Device,
    layers: Vec<Layer>,
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
    One(i64),
    None,
}

/// What the layers of one device read.
pub(crate) struct StageInputs {
    plan: AttentionPlan,
    /// `[n]` in int64.
    tokens: Tensor,
    /// `[n]` in f64, or none.
    randoms: Tensor,
}

/// What a target forward yields.
pub(crate) struct TargetOutput {
    /// `[rows that were asked for, vocabulary]`.
    pub(crate) logits: Tensor,
    /// Inputs of the three feature layers, `[n, 3 * hidden]`.
    pub(crate) features: Tensor,
    /// The random numbers that came along, `[n]` in f64, where the logits are.
    pub(crate) randoms: Tensor,
}

impl TargetModel {
    /// Loads the weights of a folder; `positions` bounds the sequence length. The layers are on the
    /// devices of `shares`.
    pub(crate) fn load(
        folder: &Path,
        config: TargetConfig,
        positions: i64,
        shares: &[Share],
        kind: Kind,
    ) -> Result<Self> {
        let mut weights = Weights::open(folder, kind)?;
        // Old checkpoints keep the rotary frequencies, which are computed here.
        weights.discard_suffix(".rotary_emb.inv_freq");
        Self::from_weights(weights, config, positions, shares)
    }

    /// A model of the given weights.
    pub(crate) fn from_weights(
        mut weights: Weights,
        config: TargetConfig,
        positions: i64,
        shares: &[Share],
    ) -> Result<Self> {
        let block = &config.block;
        let kind = weights.kind();
        weights.move_to(shares[0].device);
        let shape = [config.vocabulary, block.hidden];
        let embedding = Embedding::load(&mut weights, "model.embed_tokens.weight", shape)?;
        let mut stages = Vec::with_capacity(shares.len());
        for Share { device, layers, .. } in shares {
            weights.move_to(*device);
            let layers =
                layers.clone().map(|i| Layer::load(&mut weights, &format!("model.layers.{i}"), &config));
            stages.push(Stage { device: *device, layers: layers.collect::<Result<_>>()? });
        }
        let norm = RmsNorm::load(&mut weights, "model.norm", block.hidden, block.rms_norm_eps)?;
        let output = if config.tied_embeddings {
            Linear::tied(&mut weights, "lm_head", &embedding)?
        } else {
            Linear::load(&mut weights, "lm_head", shape, false)?
        };
        weights.finish()?;
        let rotary = RotaryTable::new(positions, block.head_dim, &block.rope);
        let rotary = rotary
            .on_devices(stages.iter().map(|stage| stage.device).filter(|device| device.is_cuda()), kind)?;
        Ok(Self { config, embedding, stages, norm, output, rotary, kind })
    }

    /// An empty cache for this model, each layer's part where the layer is.
    pub(crate) fn new_cache(&self, capacity: i64) -> Result<KvCache> {
        let parts = self.stages.iter().map(|stage| (stage.device, stage.layers.len() as i64));
        let BlockConfig { kv_heads, head_dim, .. } = self.config.block;
        KvCache::split(parts, kv_heads, capacity, head_dim, self.kind)
    }

    pub(crate) fn config(&self) -> &TargetConfig {
        &self.config
    }

    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Whether what a forward computes of a row has the same bits whatever the rows beside it that
    /// it does not see.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        let mut layers = self.stages.iter().flat_map(|stage| &stage.layers);
        layers.all(|layer| layer.attention.is_batch_invariant() && layer.mlp.is_batch_invariant())
            && self.output.is_batch_invariant()
    }

    /// Runs rows on top of the certain part of the cache. Their keys and values are provisional
    /// there afterwards. The result is on the last device. `randoms` come along to where it is.
    pub(crate) fn forward(
        &self,
        rows: &Rows,
        randoms: &[f64],
        cache: &KvCache,
        logit_rows: LogitRows,
    ) -> Result<TargetOutput> {
        self.observed_forward(rows, randoms, cache, logit_rows, &mut Unobserved)
    }

    /// [`TargetModel::forward`], part by part under the eyes of an observer.
    pub(crate) fn observed_forward(
        &self,
        rows: &Rows,
        randoms: &[f64],
        cache: &KvCache,
        logit_rows: LogitRows,
        observer: &mut impl Observer,
    ) -> Result<TargetOutput> {
        debug_assert!(rows.past == cache.len() && cache.is_settled(), "what is certain is at its place");
        let stage_inputs = |stage: &Stage| {
            let mut upload = Upload::default();
            let inputs = self.prepare_on(stage.device, &mut upload, rows, randoms);
            inputs(&upload.send(stage.device)?)
        };
        self.run(stage_inputs, rows.count(), cache, logit_rows, observer)
    }

    /// The device that all of it is on, if there is one.
    pub(crate) fn only_device(&self) -> Option<Device> {
        let [stage] = &self.stages[..] else { return None };
        Some(stage.device)
    }

    /// Gets ready what a forward reads on the only device of this model. What it needs there is
    /// added to the upload that it is then made of.
    pub(crate) fn prepare(
        &self,
        upload: &mut Upload,
        rows: &Rows,
        randoms: &[f64],
    ) -> impl FnOnce(&Uploaded) -> Result<StageInputs> + use<> {
        let device = self.only_device().expect("a model on one device");
        self.prepare_on(device, upload, rows, randoms)
    }

    /// [`TargetModel::forward`] of what was made ready, for the logits of all of so many rows.
    pub(crate) fn forward_prepared(
        &self,
        inputs: StageInputs,
        rows: i64,
        cache: &KvCache,
    ) -> Result<TargetOutput> {
        let mut inputs = Some(inputs);
        let only = |_: &Stage| Ok(inputs.take().expect("a model on one device"));
        self.run(only, rows, cache, LogitRows::All, &mut Unobserved)
    }

    fn prepare_on(
        &self,
        device: Device,
        upload: &mut Upload,
        rows: &Rows,
        randoms: &[f64],
    ) -> impl FnOnce(&Uploaded) -> Result<StageInputs> + use<> {
        let place = (self.kind, device);
        let plan = AttentionPlan::prepare(upload, rows, &self.rotary, &self.config.block, place);
        let tokens = upload.add_indices(rows.token_ids());
        let randoms = upload.add_doubles(randoms.iter().copied());
        move |uploaded: &Uploaded| {
            let (tokens, randoms) = (uploaded.get(tokens), uploaded.get(randoms));
            Ok(StageInputs { plan: plan(uploaded)?, tokens, randoms })
        }
    }

    fn run(
        &self,
        mut stage_inputs: impl FnMut(&Stage) -> Result<StageInputs>,
        rows: i64,
        cache: &KvCache,
        logit_rows: LogitRows,
        observer: &mut impl Observer,
    ) -> Result<TargetOutput> {
        let (feature_layers, hidden) = (self.config.feature_layers(), self.config.block.hidden);
        let device = self.stages.last().expect("invariant: a target has layers").device;
        let shape = [rows, feature_layers.len() as i64 * hidden];
        let features = Tensor::f_empty(shape, (self.kind, device))?;
        let (mut x, mut randoms_there) = (None, None);
        let mut index = 0;
        for stage in &self.stages {
            let Stage { device, layers } = stage;
            let StageInputs { plan, tokens, randoms } = stage_inputs(stage)?;
            let mut on_device = match x {
                None => self.embedding.forward(&tokens)?,
                Some(before) => Tensor::f_to_device(&before, *device)?,
            };
            for layer in layers {
                // Copied, as layers may overwrite what they read.
                if let Some(place) = feature_layers.iter().position(|&layer| layer == index as i64) {
                    features.narrow(COLUMNS, place as i64 * hidden, hidden).f_copy_(&on_device)?;
                }
                let Layer { input_norm, attention, post_attention_norm, mlp } = layer;
                let attention =
                    || attention.forward(&on_device, Some(input_norm), &on_device, &plan, cache.layer(index));
                let attended = observer.observe(Operation::Attention, attention)?;
                on_device =
                    observer.observe(Operation::Mlp, || mlp.forward(&attended, post_attention_norm))?;
                index += 1;
            }
            randoms_there = Some(randoms);
            x = Some(on_device);
        }
        let (Some(x), Some(randoms)) = (x, randoms_there) else { unreachable!("a target has layers") };
        let of = match logit_rows {
            LogitRows::All => Some(x),
            LogitRows::One(row) => Some(x.narrow(ROWS, row, 1)),
            LogitRows::None => None,
        };
        let logits = observer.observe(Operation::Logits, || match &of {
            Some(x) => self.output.forward_scores(x, Some(&self.norm)),
            None => Ok(Tensor::f_empty([0, self.config.vocabulary], (self.kind, device))?),
        })?;
        Ok(TargetOutput { logits, features, randoms })
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
