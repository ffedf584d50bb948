//! `ltd-trace record` and `merge`.

use std::process::ExitCode;
use std::time::Instant;

use ltd_engine::text::{TextModel, load_questions};
use ltd_engine::{Engine, StopRule, fingerprint};
use ltd_env::trace::{TRACE_VERSION, Trace, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::sha256_hex;
use ltd_train::{INTERRUPTED_EXIT_CODE, Interrupt, Progress, TrainConfig};

use crate::cli::{MergeArgs, RecordArgs};
use crate::{Error, Result};

pub(crate) fn record(args: &RecordArgs) -> Result<ExitCode> {
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
    let questions = load_questions(&args.questions, args.skip, args.limit)?;
    let prompts = text.prompts(&questions, &args.questions)?;
    let engine = Engine::load(&config.engine)?;
    engine.check_text(&text)?;
    for prompt in &prompts {
        engine.check_prompt(&prompt.ids).map_err(|problem| {
            Error::Usage(format!("{}: question {}: {problem}", args.questions.display(), prompt.id))
        })?;
    }
    let bytes = std::fs::read(&args.questions)
        .map_err(|source| Error::Io { path: args.questions.clone(), source })?;
    let depth = engine.max_depth();
    let header = TraceHeader {
        version: TRACE_VERSION,
        target: fingerprint(&config.engine.target)?,
        draft: fingerprint(&config.engine.draft)?,
        dtype: engine.dtype().chosen.to_string(),
        beam_width: engine.beam_width(),
        depth,
        max_new_tokens: config.max_new_tokens,
        capacity: engine.capacity(),
        eos: text.eos().to_vec(),
        questions: args.questions.clone(),
        questions_sha256: sha256_hex(&bytes),
    };
    let mut writer = TraceWriter::open(&args.out, header)?;
    let (interrupt, progress) = (Interrupt::listen()?, Progress::detect());
    let stop = StopRule { max_new_tokens: config.max_new_tokens, eos: text.eos().to_vec() };
    let mut task = progress.task("record", prompts.len());
    let (started, mut positions) = (Instant::now(), 0);
    for (index, prompt) in prompts.iter().enumerate() {
        let number = (args.skip + index) as u32;
        if !writer.recorded().contains(&number) {
            let batch = usize::from(args.batch);
            let sequence = record_sequence(&engine, number, &prompt.ids, &stop, depth, batch)?;
            positions += sequence.len();
            writer.append(&sequence)?;
        }
        let message = format!("{positions} positions, {:.1} MB", writer.bytes() as f64 / 1e6);
        task.update(index + 1, (index + 1) as f64 / prompts.len() as f64, &message);
        if interrupt.requested() && index + 1 < prompts.len() {
            task.finish(&format!("interrupted after {message}; the same command goes on"));
            return Ok(ExitCode::from(INTERRUPTED_EXIT_CODE));
        }
    }
    let pace = started.elapsed().as_secs_f64() * 1e3 / positions.max(1) as f64;
    let size = writer.bytes() as f64 / 1e6;
    task.finish(&format!(
        "{positions} positions recorded, {pace:.1} ms each; {} now holds {} prompts, {size:.1} MB",
        args.out.display(),
        writer.recorded().len()
    ));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    let mut writer: Option<TraceWriter> = None;
    for folder in &args.traces {
        let trace = Trace::read(folder)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(TraceWriter::open(&args.out, trace.header.clone())?),
        };
        let added = writer.merge(&trace)?;
        println!("{}: {added} of {} prompts taken over", folder.display(), trace.sequences.len());
    }
    Ok(())
}
