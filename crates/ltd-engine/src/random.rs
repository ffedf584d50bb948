//! Models of given dimensions with random weights: for measuring time, which does not depend on the
//! weights' values.

use std::path::Path;

use crate::dtype_choice::DtypeChoice;
use crate::engine::draft_rows;
use crate::model::{DraftConfig, DraftModel, FeatureNorm, TargetConfig, TargetModel, Weights};
use crate::placement::{Pair, shares};
use crate::{CudaGraphs, Engine, EngineConfig, Error, Result};

/// Draft vocabulary of the EAGLE-3 heads that were published for large targets.
const DRAFT_VOCABULARY: i64 = 32_000;

impl Engine {
    /// A target of the dimensions in a Hugging Face `config.json`, and an EAGLE-3 head whose one
    /// layer has the dimensions of the target's, both with random weights made on the device.
    /// `settings` says how they run; its folders are not looked at, and its number type must be a
    /// fixed one.
    pub fn with_random_weights(config_json: &Path, settings: &EngineConfig) -> Result<Self> {
        settings.check()?;
        let Some(dtype) = settings.dtype.fixed() else {
            let problem = "is auto, but random weights have no type of their own: name one".to_owned();
            return Err(Error::Config { field: "dtype", problem });
        };
        if let Some(threads) = settings.threads {
            tch::set_num_threads(threads as i32);
        }
        let target_config = TargetConfig::read(config_json)?;
        let draft_config = DraftConfig {
            block: target_config.block.clone(),
            vocabulary: target_config.vocabulary,
            draft_vocabulary: target_config.vocabulary.min(DRAFT_VOCABULARY),
            target_hidden: target_config.block.hidden,
            norm_before_residual: false,
            feature_norm: FeatureNorm::None,
            norm_output: false,
            sliding_window: None,
            tied_embeddings: false,
            feature_layers: None,
        };
        settings.check_beam(draft_config.draft_vocabulary)?;
        let capacity = settings.capacity(target_config.max_positions)?;
        let pair = Pair {
            target: &target_config,
            draft: &draft_config,
            shares_embedding: true,
            dtype,
            capacity,
            draft_rows: draft_rows(capacity, settings.beam_width, settings.max_depth),
            cuda_graphs: settings.cuda_graphs == CudaGraphs::Auto,
        };
        let shares = shares(settings, &pair)?;
        let device = shares[shares.len() - 1].device;
        let weights = || Weights::random(dtype.kind());
        let target = TargetModel::from_weights(weights(), target_config, capacity as i64, &shares)?;
        let positions = (capacity + settings.max_depth + 1) as i64;
        let mut head = weights();
        head.move_to(device);
        let draft = DraftModel::from_weights(head, draft_config, target.embedding(), positions, device)?;
        let mut engine = Self::assemble(target, draft, shares, DtypeChoice::fixed(dtype), capacity, settings);
        engine.set_cuda_graphs(settings.cuda_graphs);
        Ok(engine)
    }
}
