//! Recording draft trees of prompts.

use std::path::Path;
use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::Engine;
use ltd_engine::text::Prompt;
use ltd_env::trace::{TRACE_VERSION, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::{Models, SamplingParams, sha256_hex};

use crate::config::{PromptSet, TrainConfig};
use crate::{Error, Interrupt, Progress, Result};

/// A recording that is to be made, or gone on with.
#[derive(Debug)]
pub struct Recording<'a> {
    /// The prompts, for their numbers and their file.
    pub set: &'a PromptSet,
    /// The same as tokens.
    pub prompts: &'a [Prompt],
    /// Folder of the trace.
    pub out: &'a Path,
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
    /// What is to be recorded, in this order: each prompt's place and the seed. All prompts come
    /// with the first seed before any comes with the next: a limit of time leaves seeds out, not
    /// prompts.
    fn continuations(&self) -> impl ExactSizeIterator<Item = (usize, u64)> {
        let seeds = if self.sampling.is_greedy() { vec![0] } else { self.seeds.to_vec() };
        let prompts = self.prompts.len();
        (0..seeds.len() * prompts).map(move |number| (number % prompts, seeds[number / prompts]))
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
    let Recording { set, prompts, out, batch, max_time, .. } = *recording;
    let mut writer = TraceWriter::open(out, header(recording, config, engine, models, eos)?)?;
    let header = writer.header().clone();
    let continuations = recording.continuations();
    let (planned, noun) = (continuations.len(), header.noun());
    let mut task = progress.task("record", planned);
    let (started, mut positions) = (Instant::now(), 0);
    let pace = |positions: usize| started.elapsed().as_secs_f64() * 1e3 / positions.max(1) as f64;
    for (done, (place, seed)) in (1..).zip(continuations) {
        let (key, ids) = (((set.skip + place) as u32, seed), &prompts[place].ids);
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
