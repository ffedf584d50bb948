//! Recording draft trees of prompts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::Engine;
use ltd_engine::text::Prompt;
use ltd_env::trace::{
    RecordingPlan, Shard, ShardPlan, TRACE_VERSION, Trace, TraceHeader, TraceWriter, record_sequence,
};
use ltd_policy::{Models, SamplingParams, sha256_hex};

use super::shard;
use crate::config::{PromptSet, TrainConfig};
use crate::{Error, Interrupt, Progress, Result};

/// A recording that is to be made, or gone on with.
#[derive(Debug)]
pub struct Recording<'a> {
    /// The prompts, for their numbers and their file.
    pub set: &'a PromptSet,
    /// The same as tokens.
    pub prompts: &'a [Prompt],
    /// Folder of the trace; with `shard`, that of all shards.
    pub out: &'a Path,
    /// Only this part is recorded, into a folder of its own.
    pub shard: Option<Shard>,
    /// Positions whose trees grow at the same time.
    pub batch: usize,
    /// Tokens from one recorded position to the next; only with 1 can cycles be replayed.
    pub every: usize,
    /// Whether the entropies of the draft's distributions are recorded.
    pub entropies: bool,
    /// Whether the draft's hidden states after the roots are recorded.
    pub hidden: bool,
    /// Whether those after the best candidates are.
    pub states: bool,
    /// How the target's tokens are chosen.
    pub sampling: SamplingParams,
    /// Seeds of the random numbers that they are chosen by: each prompt is recorded once with each.
    /// At temperature 0 there are none, and each prompt is recorded once.
    pub seeds: &'a [u64],
    /// Ends the recording after this time, at a continuation's end.
    pub max_time: Option<Duration>,
}

impl Recording<'_> {
    /// What is to be recorded, by all processes together.
    fn plan(&self) -> RecordingPlan {
        let seeds = if self.sampling.is_greedy() { vec![0] } else { self.seeds.to_vec() };
        RecordingPlan { skip: self.set.skip as u32, prompts: self.prompts.len() as u32, seeds }
    }

    /// The folder of the trace.
    fn folder(&self) -> Result<PathBuf> {
        if let Some(problem) = shard::neighbour_problem(self.out, self.shard) {
            return Err(ltd_env::Error::Trace { path: self.out.to_owned(), problem }.into());
        }
        Ok(self.shard.map_or_else(|| self.out.to_owned(), |shard| shard.folder(self.out)))
    }
}

/// Decodes the prompts, each until a token of `eos`, and records the draft trees along the way, as
/// deep as the engine drafts. To the sampler, the sequence of a prompt is its number in its file.
/// Continuations that the trace holds already are passed over: so an interrupted recording goes on.
///
/// # Errors
/// If it is interrupted, if the folder holds another trace or cannot be written, or if the models
/// fail.
pub fn record(
    recording: &Recording,
    config: &TrainConfig,
    engine: &Engine,
    models: &Models,
    eos: &[u32],
    progress: Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let Recording { set, prompts, batch, max_time, .. } = *recording;
    let out = recording.folder()?;
    let mut writer = TraceWriter::open(&out, header(recording, config, engine, models, eos)?)?;
    let header = writer.header().clone();
    let plan = recording.plan();
    if let Some(shard) = recording.shard {
        ShardPlan { shard, plan: plan.clone() }.write(&out)?;
    }
    let continuations: Vec<_> = plan.share(recording.shard.unwrap_or(Shard::WHOLE)).collect();
    let (planned, noun) = (continuations.len(), header.noun());
    let mut task = progress.task("record", planned);
    let (started, mut positions) = (Instant::now(), 0);
    let pace = |positions: usize| started.elapsed().as_secs_f64() * 1e3 / positions.max(1) as f64;
    for (done, key) in (1..).zip(continuations) {
        let ids = &prompts[key.0 as usize - set.skip].ids;
        if !writer.recorded().contains(&key) {
            let sequence = match record_sequence(engine, &header, key, ids, batch, interrupt) {
                Err(ltd_env::Error::Interrupted) => {
                    let kept = count(writer.recorded().len(), noun);
                    task.finish(&format!("interrupted: {} holds {kept}", out.display()));
                    return Err(ltd_env::Error::Interrupted.into());
                }
                sequence => sequence?,
            };
            positions += sequence.len();
            writer.append(&sequence)?;
        }
        let message = format!("{positions} positions, {:.1} MB", writer.bytes() as f64 / 1e6);
        let by_count = done as f64 / planned as f64;
        let by_time = max_time.map_or(0.0, |limit| started.elapsed().as_secs_f64() / limit.as_secs_f64());
        task.update(done, by_count.max(by_time).min(1.0), &message);
        if by_time >= 1.0 {
            break;
        }
    }
    let recorded = if positions > 0 {
        format!("{} recorded, {:.1} ms each", count(positions, "position"), pace(positions))
    } else {
        "nothing left to record".to_owned()
    };
    task.finish(&format!(
        "{recorded}; {} now holds {}, {:.1} MB",
        out.display(),
        count(writer.recorded().len(), noun),
        writer.bytes() as f64 / 1e6
    ));
    Ok(())
}

/// Collects what the shards below `shards`, of which there are `count`, have recorded into the
/// trace in `out`, in the order of a recording that nothing divides.
///
/// # Errors
/// If one of them cannot be read, the trace cannot be written, or there is a wish to stop.
pub fn collect(shards: &Path, count: usize, out: &Path, interrupt: &Interrupt) -> Result<()> {
    let folder = |index| Shard { index, count }.folder(shards);
    // Each tree is read once: none has to stay in memory.
    let traces = (0..count).map(|index| Trace::read_within(&folder(index), 0));
    let traces = traces.collect::<Result<Vec<_>, _>>()?;
    let first = folder(0);
    let plan = ShardPlan::read(&first)?.ok_or_else(|| {
        let problem = "is not the shard of a recording".to_owned();
        ltd_env::Error::Trace { path: first, problem }
    })?;
    let recorded: BTreeMap<_, _> = traces
        .iter()
        .flat_map(|trace| trace.outlines().enumerate().map(move |(at, outline)| (outline.key(), (trace, at))))
        .collect();
    let mut writer = TraceWriter::open(out, traces[0].header.clone())?;
    // What a limit of time left out is in no shard.
    for key in plan.plan.continuations() {
        if let Some((trace, at)) = recorded.get(&key).filter(|_| !writer.recorded().contains(&key)) {
            interrupt.check()?;
            let sequence = trace.sequence(*at)?;
            writer.append(&sequence)?;
        }
    }
    Ok(())
}

fn header(
    recording: &Recording,
    config: &TrainConfig,
    engine: &Engine,
    models: &Models,
    eos: &[u32],
) -> Result<TraceHeader> {
    let width = engine.draft_config().block.hidden as usize;
    let file = &recording.set.file;
    let bytes = std::fs::read(file).map_err(|source| Error::Io { path: file.clone(), source })?;
    Ok(TraceHeader {
        version: TRACE_VERSION,
        target: models.target.clone(),
        draft: models.draft.clone(),
        dtype: engine.dtype().chosen.to_string(),
        beam_width: engine.beam_width(),
        depth: engine.max_depth(),
        every: recording.every,
        entropies: recording.entropies,
        hidden: recording.hidden.then_some(width),
        states: recording.states.then_some(width),
        token_bytes: TraceHeader::bytes_of_token(engine.vocabulary()),
        sampling: recording.sampling,
        max_new_tokens: config.max_new_tokens,
        capacity: engine.capacity(),
        eos: eos.to_vec(),
        questions: file.clone(),
        questions_sha256: sha256_hex(&bytes),
    })
}
