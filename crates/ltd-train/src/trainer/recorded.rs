//! What a run on recorded cycles learns from.

use std::path::Path;
use std::sync::Arc;

use ltd_engine::Engine;
use ltd_env::Costs;
use ltd_env::trace::Trace;
use ltd_policy::{DepthActions, LatencyTable, SizeActions, sha256_hex};

use crate::config::{ReplayConfig, TrainConfig};
use crate::plan::Counterpart;
use crate::prompts::Prompts;
use crate::run::Provenance;
use crate::{Error, Result};

/// Recorded trees, and what cycles cost.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) trace: Arc<Trace>,
    pub(super) costs: Costs,
}

impl Recorded {
    /// Reads both and checks that they are of these models, reach as far as the configuration, and hold no prompt
    /// that policies are measured on.
    pub(super) fn load(
        replay: &ReplayConfig,
        config: &TrainConfig,
        engine: &Engine,
        prompts: &Prompts,
        provenance: &Provenance,
    ) -> Result<Self> {
        let trace = Trace::read(&replay.trace).map_err(|error| Error::Recorded(error.to_string()))?;
        let table =
            LatencyTable::read(&replay.latency).map_err(|error| Error::Recorded(error.to_string()))?;
        let (header, identity) = (&trace.header, &table.identity);
        for (path, what, found, wanted) in [
            (&replay.trace, "target", &header.target.sha256, &provenance.target.sha256),
            (&replay.trace, "draft", &header.draft.sha256, &provenance.draft.sha256),
            (&replay.trace, "beam width", &header.beam_width.to_string(), &engine.beam_width().to_string()),
            (&replay.latency, "target", &identity.target, &provenance.target.sha256),
            (&replay.latency, "draft", &identity.draft, &provenance.draft.sha256),
            (
                &replay.latency,
                "beam width",
                &identity.beam_width.to_string(),
                &engine.beam_width().to_string(),
            ),
        ] {
            if found != wanted {
                return Err(problem(path, &format!("its {what} is {found}, that of this run is {wanted}")));
            }
        }
        let deepest = deepest(config);
        if header.depth < deepest {
            let depth = header.depth;
            return Err(problem(
                &replay.trace,
                &format!("its trees are {depth} deep, this run asks for {deepest}"),
            ));
        }
        if trace.positions() == 0 {
            return Err(problem(&replay.trace, "it has no position to learn from"));
        }
        check_apart(&trace, replay, config, prompts)?;
        let contexts = trace.sequences.iter().map(|sequence| sequence.prompt_len + sequence.len());
        let longest = contexts.max().unwrap_or(0);
        let depths = DepthActions { max_depth: deepest, ..config.depth.actions };
        let missing = table.covers(&depths, &SizeActions { sizes: sizes(config) }, longest);
        if let Some(first) = missing.first() {
            return Err(problem(&replay.latency, first));
        }
        let costs = Costs { model: table.model(), decision: table.decision };
        Ok(Self { trace: Arc::new(trace), costs })
    }
}

fn problem(path: &Path, problem: &str) -> Error {
    Error::Recorded(format!("{}: {problem}", path.display()))
}

/// The deepest tree of any stage.
fn deepest(config: &TrainConfig) -> usize {
    let drawn = config.plan().into_iter().filter_map(|stage| match stage.counterpart {
        Counterpart::RandomDepth(range) => Some(range.max),
        Counterpart::FixedSize(_) | Counterpart::Frozen => None,
    });
    drawn.chain([config.depth.actions.max_depth, config.evaluation.default.depth]).max().unwrap_or(0)
}

/// Every size that may be asked for, ascending.
fn sizes(config: &TrainConfig) -> Vec<usize> {
    let fixed = config.stages.depth.as_ref().map(|stage| stage.verification_size);
    let mut sizes = config.size.sizes.sizes.clone();
    sizes.extend(fixed.into_iter().chain([config.evaluation.default.size]));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Fails if a recorded prompt is one that policies are measured on.
fn check_apart(trace: &Trace, replay: &ReplayConfig, config: &TrainConfig, prompts: &Prompts) -> Result<()> {
    let sets = [
        ("validation", &config.prompts.validation, prompts.validation.len()),
        ("evaluation", &config.prompts.evaluation, prompts.evaluation.len()),
    ];
    for (name, set, count) in sets {
        let bytes =
            std::fs::read(&set.file).map_err(|source| Error::Io { path: set.file.clone(), source })?;
        if sha256_hex(&bytes) != trace.header.questions_sha256 {
            continue;
        }
        let measured = set.skip..set.skip + count;
        let shared = trace.sequences.iter().find(|sequence| measured.contains(&(sequence.prompt as usize)));
        if let Some(sequence) = shared {
            let number = sequence.prompt;
            return Err(problem(
                &replay.trace,
                &format!(
                    "it has question {number}, which is one of prompts.{name}: measure on other prompts than are learned from"
                ),
            ));
        }
    }
    Ok(())
}
