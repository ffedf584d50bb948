//! `ltd-trace latency`.

use ltd_console::{note, say};
use ltd_engine::Engine;
use ltd_policy::check_output_file;
use ltd_train::{Interrupt, Progress, TrainConfig, describe_latency, measure_latency};

use crate::Result;
use crate::cli::LatencyArgs;

pub(crate) fn latency(args: &LatencyArgs) -> Result<()> {
    check_output_file("--out", &args.out)?;
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let engine = Engine::load(&config.engine)?;
    for warning in engine.warnings() {
        note!("ltd-trace: warning: {warning}");
    }
    let models = config.engine.models()?;
    // Half a measurement is of no use to anybody: until it is written, an interruption ends the program at
    // once.
    let (progress, interrupt) = (Progress::detect(), Interrupt::default());
    let table = measure_latency(&config, &engine, &models, usize::from(args.repeats), progress, &interrupt)?;
    table.write(&args.out)?;
    Ok(say!("written to {}\n\n{}", args.out.display(), describe_latency(&table))?)
}
