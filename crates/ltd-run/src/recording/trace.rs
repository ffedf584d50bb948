//! Recording draft trees of prompts.

use std::path::Path;
use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::Engine;
use ltd_engine::text::Prompt;
use ltd_env::trace::{TRACE_VERSION, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::{Models, sha256_hex};

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
    /// Whether the draft's hidden states are recorded.
    pub hidden: bool,
    /// Ends the recording after this time, at a prompt's end.
    pub max_time: Option<Duration>,
}

/// Decodes the prompts greedily, each until a token of `eos`, and records the draft trees along the
/// way, as deep as the engine drafts. Prompts that the trace holds already are passed over: so an
/// interrupted recording goes on.
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
    let mut task = progress.task("record", prompts.len());
    let (started, mut positions) = (Instant::now(), 0);
    let pace = |positions: usize| started.elapsed().as_secs_f64() * 1e3 / positions.max(1) as f64;
    for (index, prompt) in prompts.iter().enumerate() {
        let number = (set.skip + index) as u32;
        if !writer.recorded().contains(&number) {
            let sequence = match record_sequence(engine, &header, number, &prompt.ids, batch, interrupt) {
                Err(ltd_env::Error::Interrupted) => {
                    let kept = count(writer.recorded().len(), "prompt");
                    task.finish(&format!("interrupted: {} holds {kept}", out.display()));
                    return Err(ltd_env::Error::Interrupted.into());
                }
                sequence => sequence?,
            };
            positions += sequence.len();
            writer.append(&sequence)?;
        }
        let message = format!("{positions} positions, {:.1} MB", writer.bytes() as f64 / 1e6);
        let by_count = (index + 1) as f64 / prompts.len() as f64;
        let by_time = max_time.map_or(0.0, |limit| started.elapsed().as_secs_f64() / limit.as_secs_f64());
        task.update(index + 1, by_count.max(by_time).min(1.0), &message);
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
        count(writer.recorded().len(), "prompt"),
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
        hidden: recording.hidden.then_some(engine.draft_config().block.hidden as usize),
        token_bytes: TraceHeader::bytes_of_token(engine.vocabulary()),
        max_new_tokens: config.max_new_tokens,
        capacity: engine.capacity(),
        eos: eos.to_vec(),
        questions: file.clone(),
        questions_sha256: sha256_hex(&bytes),
    })
}
