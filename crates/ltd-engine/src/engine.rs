//! A target and a draft model that work together.

use std::sync::OnceLock;
use std::time::Duration;

use ltd_policy::{Conditions, DraftSource};
use tch::{Device, Tensor};

use crate::config::{CudaGraphs, EngineConfig};
use crate::device::Dtype;
use crate::dtype_choice::{DtypeChoice, candidates, choose_dtype};
use crate::identity::Identity;
use crate::kv_cache::KvCache;
use crate::model::{
    AttentionMask, DraftConfig, DraftModel, Rows, TargetConfig, TargetModel, Weights, check_instructions,
    instructions, passed_over_index, stored_kind,
};
use crate::placement::{Pair, Share, shares};
use crate::session::Session;
use crate::text::TextModel;
use crate::timing::{Clock, timed};
use crate::{Controller, CycleOutcome, CycleTiming, Error, Result, Sampler, SamplingParams};

/// The two models with the limits under which they draft.
pub struct Engine {
    /// What its sessions are known by.
    pub(crate) identity: Identity,
    pub(crate) target: TargetModel,
    pub(crate) draft: DraftModel,
    /// Where the target's last layer is, and the draft.
    pub(crate) device: Device,
    /// All devices, in the order of the layers.
    pub(crate) devices: Vec<Device>,
    /// All devices with their layers of the target.
    shares: Vec<Share>,
    dtype: DtypeChoice,
    beam_width: usize,
    max_depth: usize,
    capacity: usize,
    profiling: bool,
    /// The device of CUDA graphs, where there are to be any.
    pub(crate) graph_device: Option<usize>,
    /// Why none is captured any more.
    pub(crate) no_graphs: OnceLock<String>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// Loads both models, and changes nothing else of the process: see [`Engine::open`] for
    /// programs. Everything about the folders is checked before the first forward.
    ///
    /// # Errors
    /// If a value of the configuration is impossible, `threads` are not those that LibTorch has, a
    /// folder holds no model that is known, or both do not fit each other or the device.
    pub fn load(config: &EngineConfig) -> Result<Self> {
        config.check()?;
        config.check_threads()?;
        check_instructions()?;
        for folder in [&config.target, &config.draft] {
            if !folder.is_dir() {
                return Err(Error::NoFolder { folder: folder.clone() });
            }
        }
        let target_config = TargetConfig::load(&config.target)?;
        let draft_config = DraftConfig::load(&config.draft)?;
        DraftModel::check_fit(&draft_config, &config.draft, &target_config, &config.target)?;
        config.check_beam(draft_config.draft_vocabulary)?;
        let capacity = config.capacity(target_config.max_positions)?;
        target_config.check_window(&config.target, capacity)?;
        // Draft levels stand beyond the last position of the target.
        let positions = (capacity + config.max_depth + 1) as i64;
        draft_config.check_length(&config.draft, positions)?;
        let dtypes = match config.dtype.fixed() {
            Some(dtype) => vec![dtype],
            None => candidates(stored_kind(&config.target)?, config.is_on_cpu()),
        };
        let draft_weights = Weights::open(&config.draft, dtypes[0].kind())?;
        let pair = Pair {
            target: &target_config,
            draft: &draft_config,
            shares_embedding: DraftModel::shares_embedding(&draft_config, &draft_weights),
            // Devices are chosen by their memory only where no types are compared.
            dtype: dtypes[0],
            capacity,
            draft_rows: draft_rows(capacity, config.beam_width, config.max_depth),
            cuda_graphs: config.cuda_graphs == CudaGraphs::Auto,
        };
        let shares = shares(config, &pair)?;
        let device = shares[shares.len() - 1].device;
        let load = |dtype: Dtype| {
            TargetModel::load(&config.target, target_config.clone(), capacity as i64, &shares, dtype.kind())
        };
        let (target, dtype) = choose_dtype(&dtypes, &[device], load)?;
        let kind = dtype.chosen.kind();
        let draft =
            DraftModel::load(&config.draft, draft_config, target.embedding(), positions, device, kind)?;
        let mut engine = Self::assemble(target, draft, shares, dtype, capacity, config);
        let folders = [&config.target, &config.draft].into_iter();
        engine.warnings = folders.filter_map(|folder| passed_over_index(folder)).collect();
        engine.set_cuda_graphs(config.cuda_graphs);
        Ok(engine)
    }

    pub(crate) fn assemble(
        target: TargetModel,
        draft: DraftModel,
        shares: Vec<Share>,
        dtype: DtypeChoice,
        capacity: usize,
        config: &EngineConfig,
    ) -> Self {
        let EngineConfig { beam_width, max_depth, .. } = *config;
        let device = shares[shares.len() - 1].device;
        let identity = Identity::new();
        Self {
            identity,
            target,
            draft,
            device,
            devices: shares.iter().map(|share| share.device).collect(),
            shares,
            dtype,
            beam_width,
            max_depth,
            capacity,
            profiling: false,
            graph_device: None,
            no_graphs: OnceLock::new(),
            warnings: Vec::new(),
        }
    }

    /// What was odd about the models' files, though they could be loaded, and what the device
    /// cannot do as it was asked to.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What the device could not do any more as it was asked to, since the engine was opened: for
    /// the end of a run.
    pub fn late_warning(&self) -> Option<&str> {
        self.no_graphs.get().map(String::as_str)
    }

    /// Whether [`CycleTiming::forwards`] says, from now on, how much of a cycle the model forwards
    /// take. Costs two more synchronisations of the device per forward.
    pub fn profile_forwards(&mut self, profiling: bool) {
        self.profiling = profiling;
    }

    /// Deepest draft this engine's caches allow, `D <= 12`.
    pub fn max_depth(&self) -> usize {
        self.max_depth
    }

    /// Candidates kept per level, `W`.
    pub fn beam_width(&self) -> usize {
        self.beam_width
    }

    /// Positions of the caches.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number type in use, and the measurement that chose it.
    pub fn dtype(&self) -> &DtypeChoice {
        &self.dtype
    }

    /// Whether what the target computes of a token has the same bits whatever is computed beside
    /// it: then trees are verified with the bits of plain decoding, and speculative output equals
    /// it token for token in any number type. So it is on processors whose products are this
    /// engine's own: x86-64 with AVX2, in bf16 without AMX, in f16 without AVX512-FP16.
    pub fn is_batch_invariant(&self) -> bool {
        self.target.is_batch_invariant()
    }

    /// The instructions that the engine's own kernels use on a CPU
    /// ([`ltd_kernels::InstructionSet::NAMES`]).
    pub fn instructions(&self) -> &'static str {
        instructions().name()
    }

    /// Where the target's last layer is, and the draft.
    pub fn device(&self) -> Device {
        self.device
    }

    /// All devices with the number of the target's layers on each, in order, named as in a
    /// configuration.
    pub fn devices(&self) -> impl Iterator<Item = (&str, usize)> {
        self.shares.iter().map(|share| (share.name.as_str(), share.layers.clone().count()))
    }

    /// The names of all devices, separated by commas.
    pub fn device_names(&self) -> String {
        self.devices().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }

    /// [`Engine::device_names`], and `+graphs` where forwards are CUDA graphs: what costs hold for.
    pub fn runs_on(&self) -> String {
        let graphs = if self.graph_device().is_some() { "+graphs" } else { "" };
        self.device_names() + graphs
    }

    /// What a policy's decisions meet here, with such sampling.
    pub fn conditions(&self, sampling: SamplingParams) -> Conditions {
        Conditions {
            sampling: Some(sampling),
            device: Some(self.runs_on()),
            dtype: Some(self.dtype.chosen.to_string()),
            threads: usize::try_from(tch::get_num_threads()).ok(),
        }
    }

    /// Dimensions of the target.
    pub fn target_config(&self) -> &TargetConfig {
        self.target.config()
    }

    /// Dimensions of the draft.
    pub fn draft_config(&self) -> &DraftConfig {
        self.draft.config()
    }

    /// Size of the target's vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.target.config().vocabulary as usize
    }

    /// Starts a sequence that is decoded greedily: [`Engine::prefill_sampled`] at temperature 0.
    pub fn prefill(&self, prompt: &[u32], recycle: Option<Session>) -> Result<Session> {
        self.prefill_sampled(prompt, Sampler::greedy(), recycle)
    }

    /// One plain autoregressive step, in the form of a cycle that drafts and verifies nothing. The
    /// session's features are dropped, as the baseline has no use for them.
    pub fn autoregressive_step(&self, session: &mut Session) -> Result<CycleOutcome> {
        session.check_engine(self.identity)?;
        if session.is_full() {
            return Err(Error::CacheFull { capacity: self.capacity });
        }
        (session.features, session.accepted, session.kept, session.cycle) = (None, None, None, None);
        let context_length = session.context_length();
        let clock = Clock::start(&self.devices);
        session.settle()?;
        let (past, next_position) = (session.target_cache.len(), [context_length + 1]);
        let mask = &AttentionMask::causal(past, 1);
        let row = Rows { tokens: &[session.root], positions: &[past], past, mask };
        let mut forwards = Duration::ZERO;
        let (choice, _) = self.choose_after(session, &row, &next_position, &mut forwards)?;
        let next_token = choice.read(&clock.wait(), &next_position)?[0];
        let verify = clock.elapsed();
        self.capture_graph(session);
        session.target_cache.advance(1);
        let appended = std::mem::replace(&mut session.root, next_token);
        session.tokens.push(appended);
        Ok(CycleOutcome {
            source: DraftSource::Copy { chain: 0 },
            accepted_ids: vec![appended],
            next_token,
            draft_depth: 0,
            level_rows: Vec::new(),
            verification_size: 0,
            requested_size: 0,
            context_length,
            timing: CycleTiming { verify, forwards, ..CycleTiming::default() },
            ..CycleOutcome::default()
        })
    }

    /// One step of a generation: a cycle under a controller, or a plain autoregressive step without
    /// one.
    pub fn step(
        &self,
        session: &mut Session,
        controller: Option<&mut (dyn Controller + '_)>,
    ) -> Result<CycleOutcome> {
        match controller {
            Some(controller) => self.run_cycle(session, controller),
            None => self.autoregressive_step(session),
        }
    }

    /// Runs a model forward; its time is added to `forwards` when profiling.
    pub(crate) fn forward<T>(&self, forwards: &mut Duration, work: impl FnOnce() -> T) -> T {
        if !self.profiling {
            return work();
        }
        let (result, elapsed) = timed(&self.devices, work);
        *forwards += elapsed;
        result
    }

    pub(crate) fn token_tensor(&self, tokens: &[u32]) -> Result<Tensor> {
        let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        self.index_tensor(&tokens)
    }

    /// Numbers of rows, or tokens, where the draft is.
    pub(crate) fn index_tensor(&self, numbers: &[i64]) -> Result<Tensor> {
        Ok(Tensor::from_slice(numbers).f_to_device(self.device)?)
    }

    pub(crate) fn new_caches(&self) -> Result<(KvCache, KvCache)> {
        let target_cache = self.target.new_cache(self.capacity as i64)?;
        Ok((target_cache, self.draft_cache(self.draft_rows())?))
    }

    /// Rows of the draft's cache.
    pub(crate) fn draft_rows(&self) -> usize {
        draft_rows(self.capacity, self.beam_width, self.max_depth)
    }

    /// A cache of the draft for some rows.
    pub(crate) fn draft_cache(&self, rows: usize) -> Result<KvCache> {
        let block = &self.draft.config().block;
        let kind = self.dtype.chosen.kind();
        KvCache::new(1, block.kv_heads, rows as i64, block.head_dim, kind, self.device)
    }

    /// Fails if a tokenizer is not that of these models: it lacks tokens that the head proposes, or
    /// an answer is to end with one that the target does not know. Other tokens that the target
    /// does not know matter only in a prompt.
    pub fn check_text(&self, text: &TextModel) -> Result<()> {
        let mismatch = |problem| Err(Error::TokenizerMismatch { target: text.folder().to_owned(), problem });
        if let (Some(proposed), Some(largest)) = (self.draft.largest_token(), text.largest_token())
            && proposed > largest
        {
            return mismatch(format!(
                "the draft model proposes token {proposed}, but the tokenizer's largest is {largest}"
            ));
        }
        check_stop_tokens(text, self.vocabulary())
    }

    /// Fails if a prompt cannot be decoded: empty, longer than the cache, or with tokens the target
    /// does not know.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        let vocabulary = self.vocabulary();
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= self.capacity {
            return Err(Error::PromptTooLong { tokens: prompt.len(), capacity: self.capacity });
        }
        match prompt.iter().position(|&token| token as usize >= vocabulary) {
            Some(position) => Err(Error::UnknownToken { token: prompt[position], position, vocabulary }),
            None => Ok(()),
        }
    }
}

/// Fails if an answer is to end with a token that a target does not know.
fn check_stop_tokens(text: &TextModel, vocabulary: usize) -> Result<()> {
    match text.stop_tokens().iter().find(|token| token.id as usize >= vocabulary) {
        Some(token) => {
            let problem = format!(
                "stop token {} ({token}, from {}) is outside its vocabulary of {vocabulary}: chat.stop_tokens \
                 (ltd-decode: --stop-token) names others",
                token.id,
                token.origins.join(", ")
            );
            Err(Error::TokenizerMismatch { target: text.folder().to_owned(), problem })
        }
        None => Ok(()),
    }
}

impl EngineConfig {
    /// What [`Engine::check_text`] finds without the weights.
    ///
    /// # Errors
    /// If the target's configuration cannot be read, or an answer is to end with a token that it
    /// does not know.
    pub fn check_text(&self, text: &TextModel) -> Result<()> {
        check_stop_tokens(text, TargetConfig::load(&self.target)?.vocabulary as usize)
    }
}

/// Rows of a draft's cache: certain positions, and the frontiers of the deepest tree.
pub(crate) fn draft_rows(capacity: usize, beam_width: usize, max_depth: usize) -> usize {
    capacity + beam_width * max_depth
}

pub(crate) fn positions(start: i64, count: i64) -> Vec<i64> {
    (start..start + count).collect()
}
