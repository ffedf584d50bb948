//! `ltd-trace record`.

use std::path::PathBuf;

use clap::Args;
use ltd_console::note;
use ltd_engine::Engine;
use ltd_engine::text::TextModel;
use ltd_policy::check_output_folder;
use ltd_run::config::PromptSet;
use ltd_run::interrupt::listen;
use ltd_run::prompts::load_prompts;
use ltd_run::recording::{self, Recording};
use ltd_run::{Interrupt, Progress, TrainConfig};

use super::within;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Configuration of a training run: models, dtype, beam width, deepest draft, length of answers
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set max_new_tokens=64`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Prompts, in FastChat's question.jsonl form
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: PathBuf,
    /// Prompts to pass over
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: usize,
    /// Prompts to record [default: all]
    #[arg(long, value_name = "N", value_parser = within::<usize>(1, u64::MAX))]
    pub(crate) limit: Option<usize>,
    /// Positions whose trees grow at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u16>(1, 256))]
    pub(crate) batch: u16,
    /// Record the trees of every K-th position only: for statistics and predictors, not for replays
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = within::<u16>(1, u16::MAX.into()))]
    pub(crate) every: u16,
    /// Record the entropies of the draft's distributions too
    #[arg(long)]
    pub(crate) entropies: bool,
    /// Record the draft's hidden state at each root too
    #[arg(long)]
    pub(crate) hidden: bool,
    /// Folder of the trace; an interrupted recording goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

pub(crate) fn record(args: &RecordArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    if !config.sampling.is_greedy() {
        return Err(Error::Sampling { sampling: config.sampling });
    }
    let text = TextModel::of(&config.engine)?;
    let engine = Engine::open(&config.engine, &text)?;
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
    let done = recording::record(&recording, &config, &engine, &models, eos, progress, &interrupt);
    if let Some(warning) = engine.late_warning() {
        note!("ltd-trace: warning: {warning}");
    }
    done.map_err(|error| match error {
        ltd_run::Error::Env(error @ ltd_env::Error::Io { .. }) => Error::Recording(error),
        other => other.into(),
    })
}
