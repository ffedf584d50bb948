//! `ltd-trace record` and `merge`.

use ltd_console::{note, say};
use ltd_engine::Engine;
use ltd_engine::text::TextModel;
use ltd_env::trace::{Trace, TraceWriter};
use ltd_policy::check_output_folder;
use ltd_train::{Interrupt, Progress, PromptSet, Recording, TrainConfig, listen, load_prompts};

use crate::cli::{MergeArgs, RecordArgs};
use crate::{Error, Result};

pub(crate) fn record(args: &RecordArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
    let engine = Engine::load(&config.engine)?;
    engine.check_text(&text)?;
    for warning in engine.warnings() {
        note!("ltd-trace: warning: {warning}");
    }
    let set = PromptSet { file: args.questions.clone(), skip: args.skip, take: args.limit };
    let prompts = load_prompts(&set, &text, &engine)?;
    let recording = Recording {
        set: &set,
        prompts: &prompts,
        out: &args.out,
        batch: usize::from(args.batch),
        every: usize::from(args.every),
        entropies: args.entropies,
        hidden: args.hidden,
        max_time: None,
    };
    let models = config.engine.models()?;
    let interrupt = Interrupt::default();
    listen(&interrupt)?;
    let (eos, progress) = (text.eos(), Progress::detect());
    let done = ltd_train::record(&recording, &config, &engine, &models, eos, progress, &interrupt);
    done.map_err(|error| match error {
        ltd_train::Error::Env(error @ ltd_env::Error::Io { .. }) => Error::Recording(error),
        other => other.into(),
    })
}

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let mut writer: Option<TraceWriter> = None;
    // What cannot be told is merged nevertheless.
    let mut told = Ok(());
    for folder in &args.traces {
        let trace = Trace::read(folder)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(TraceWriter::open(&args.out, trace.header.clone())?),
        };
        let added = writer.merge(&trace)?;
        told =
            told.and(say!("{}: {added} of {} prompts taken over", folder.display(), trace.sequences.len()));
    }
    Ok(told?)
}
