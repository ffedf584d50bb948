//! `ltd-trace record` and `merge`.

use std::process::ExitCode;

use ltd_engine::Engine;
use ltd_engine::text::TextModel;
use ltd_env::trace::{Trace, TraceWriter};
use ltd_train::{
    INTERRUPTED_EXIT_CODE, Interrupt, Progress, PromptSet, Recording, TrainConfig, load_prompts,
};

use crate::Result;
use crate::cli::{MergeArgs, RecordArgs};

pub(crate) fn record(args: &RecordArgs) -> Result<ExitCode> {
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
    let engine = Engine::load(&config.engine)?;
    engine.check_text(&text)?;
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
    let interrupt = Interrupt::listen()?;
    let models = config.engine.models()?;
    let (eos, progress) = (text.eos(), Progress::detect());
    let done = ltd_train::record(&recording, &config, &engine, &models, eos, progress, &interrupt)?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED_EXIT_CODE) })
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
