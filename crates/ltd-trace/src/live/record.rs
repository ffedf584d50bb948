//! `ltd-trace record`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use ltd_console::note;
use ltd_engine::Engine;
use ltd_engine::text::TextModel;
use ltd_policy::{SamplingParams, check_output_folder};
use ltd_run::config::PromptSet;
use ltd_run::interrupt::listen;
use ltd_run::local_rank::{local_rank, on_own_device};
use ltd_run::prompts::load_prompts;
use ltd_run::recording::{self, Recording, ShardChoice};
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
    /// Record its hidden state after the best candidate of each level too
    #[arg(long)]
    pub(crate) states: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Folder of the trace; an interrupted recording goes on. A shard goes to its folder
    /// `shard-I-of-N`
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Record a part of the continuations: number I, from 0, of N. `auto`: as the launcher says
    /// (`RANK` and `WORLD_SIZE`, a Slurm array or step, `JOB_COMPLETION_INDEX` and
    /// `JOB_COMPLETIONS`), 0/1 without one. `none`: all [default: `auto` where a launcher started
    /// several processes, with a note; else `none`]
    #[arg(long, value_name = "I/N|auto|none")]
    shard: Option<ShardChoice>,
}

/// How tokens are chosen; what is left out is as the configuration's `sampling` and `seed` have it.
#[derive(Debug, Args)]
struct SamplingArgs {
    /// 0 always takes the most probable token; above, tokens are drawn at this temperature
    /// [default: the configuration's]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw among the most probable tokens that together reach this probability [default:
    /// the configuration's]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Draw among this many of the most probable tokens [default: the
    /// configuration's]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Seed of the draws; may be repeated, or several with commas: each prompt is recorded once
    /// with each [default: the configuration's]
    #[arg(long = "seed", value_name = "N", value_delimiter = ',', allow_negative_numbers = true)]
    seeds: Vec<u64>,
}

impl SamplingArgs {
    /// The settings and the seeds, with those of a configuration where nothing is given.
    fn over(&self, configured: SamplingParams, seed: u64) -> Result<(SamplingParams, Vec<u64>)> {
        let sampling = SamplingParams {
            temperature: self.temperature.unwrap_or(configured.temperature),
            top_p: self.top_p.unwrap_or(configured.top_p),
            top_k: self.top_k.or(configured.top_k),
        };
        let wrong = |flag: &str, problem: String| Error::Sampling { flag: flag.replace('_', "-"), problem };
        if let Some((field, problem)) = sampling.problems().into_iter().next() {
            return Err(wrong(field, problem));
        }
        let given = [
            ("top-p", self.top_p.is_some()),
            ("top-k", self.top_k.is_some()),
            ("seed", !self.seeds.is_empty()),
        ];
        if let Some((flag, _)) = given.into_iter().find(|(_, given)| sampling.is_greedy() && *given) {
            let problem = "has no effect at temperature 0, where a prompt has one continuation: set \
                           --temperature, or leave it out";
            return Err(wrong(flag, problem.to_owned()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.seeds.iter().find(|seed| !seen.insert(**seed)) {
            return Err(wrong("seed", format!("has {twice} twice: a continuation is recorded once")));
        }
        let seeds = if self.seeds.is_empty() { vec![seed] } else { self.seeds.clone() };
        Ok((sampling, seeds))
    }
}

pub(crate) fn record(args: &RecordArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let shard = ShardChoice::shard(args.shard, |shard, variables| {
        note!("ltd-trace: records {shard} only, as {variables} say: --shard none records everything");
    })?;
    let mut config = TrainConfig::load(&args.config, &args.overrides)?;
    if shard.is_some() {
        config.engine = on_own_device(config.engine, local_rank()?);
    }
    let (sampling, seeds) = args.sampling.over(config.sampling, config.seed)?;
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
        shard,
        batch: usize::from(args.batch),
        every: usize::from(args.every),
        entropies: args.entropies,
        hidden: args.hidden,
        states: args.states,
        sampling,
        seeds: &seeds,
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
