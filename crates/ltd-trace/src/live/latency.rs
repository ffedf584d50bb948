//! `ltd-trace latency`.

use std::path::PathBuf;

use clap::Args;
use ltd_console::{note, say};
use ltd_engine::Engine;
use ltd_engine::text::TextModel;
use ltd_policy::check_output_file;
use ltd_run::recording::{describe_latency, measure_latency};
use ltd_run::{Interrupt, Progress, TrainConfig};

use super::within;
use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Configuration of a training run: models, dtype, device, action tables
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set engine.threads=1`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Measured cycles per verification size and context length; where they scatter, up to four
    /// times as many
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = within::<u16>(3, u16::MAX.into()))]
    pub(crate) repeats: u16,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

pub(crate) fn latency(args: &LatencyArgs) -> Result<()> {
    check_output_file("--out", &args.out, [args.config.as_path()])?;
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let engine = Engine::open(&config.engine, &TextModel::of(&config.engine)?)?;
    for warning in engine.warnings() {
        note!("ltd-trace: warning: {warning}");
    }
    let models = config.engine.models()?;
    // Half a measurement is of no use to anybody: until it is written, an interruption ends the
    // program at once.
    let (progress, interrupt) = (Progress::detect(), Interrupt::default());
    let table = measure_latency(&config, &engine, &models, usize::from(args.repeats), progress, &interrupt)?;
    if let Some(warning) = engine.late_warning() {
        note!("ltd-trace: warning: {warning}");
    }
    table.write(&args.out)?;
    Ok(say!("written to {}\n\n{}", args.out.display(), describe_latency(&table))?)
}
