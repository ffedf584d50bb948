//! What is measured: an engine and prompts for it.

use std::path::Path;

use ltd_console::note;
use ltd_engine::text::TextModel;
use ltd_engine::{Devices, DtypeSetting, Engine, EngineConfig};
use ltd_run::TrainConfig;
use ltd_run::prompts::load_prompts;
use rand::Rng;

use super::args::EngineArgs;
use crate::error::Result;

/// Length of made-up prompts.
const RANDOM_PROMPT: usize = 128;

pub(super) struct Subject {
    pub(super) engine: Engine,
    pub(super) settings: EngineConfig,
    pub(super) prompts: Vec<Vec<u32>>,
    /// Tokens that end an answer.
    pub(super) eos: Vec<u32>,
    /// Whether the weights and the prompts are made up.
    pub(super) random_weights: bool,
}

impl Subject {
    pub(super) fn load(args: &EngineArgs) -> Result<Self> {
        match (&args.random_weights, &args.config) {
            (Some(config_json), _) => Self::random(config_json, args),
            (None, Some(config)) => Self::configured(config, args),
            (None, None) => unreachable!("clap asks for one of both"),
        }
    }

    fn configured(file: &Path, args: &EngineArgs) -> Result<Self> {
        let TrainConfig { engine: settings, prompts, .. } = TrainConfig::load(file, &args.overrides)?;
        let text = TextModel::of(&settings)?;
        let engine = Engine::open(&settings, &text)?;
        for warning in engine.warnings() {
            note!("ltd-bench: warning: {warning}");
        }
        let prompts = load_prompts(&prompts.evaluation, &text, &engine)?;
        let prompts = prompts.into_iter().take(args.prompts).map(|prompt| prompt.ids).collect();
        Ok(Self { engine, settings, prompts, eos: text.eos().to_vec(), random_weights: false })
    }

    fn random(config_json: &Path, args: &EngineArgs) -> Result<Self> {
        let settings = EngineConfig {
            devices: Devices::from_names(args.device.clone()),
            dtype: args.dtype.unwrap_or(DtypeSetting::Auto),
            cuda_graphs: args.cuda_graphs,
            ..EngineConfig::new(config_json, "")
        };
        let engine = Engine::with_random_weights(config_json, &settings)?;
        for warning in engine.warnings() {
            note!("ltd-bench: warning: {warning}");
        }
        let vocabulary = engine.vocabulary() as u32;
        let mut random = ltd_env::stream(0, "prompts");
        let length = RANDOM_PROMPT.min(engine.capacity() / 2);
        let mut prompt = || (0..length).map(|_| random.random_range(0..vocabulary)).collect();
        let prompts = (0..args.prompts).map(|_| prompt()).collect();
        Ok(Self { engine, settings, prompts, eos: Vec::new(), random_weights: true })
    }

    /// The first `count` tokens of all prompts in a row, from the beginning again where they end.
    pub(super) fn tokens(&self, count: usize) -> Vec<u32> {
        self.prompts.iter().flatten().copied().cycle().take(count).collect()
    }
}
