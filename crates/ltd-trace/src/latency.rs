//! `ltd-trace latency`.

use ltd_console::say;
use ltd_engine::Engine;
use ltd_train::{Progress, TrainConfig, describe_latency, measure_latency};

use crate::Result;
use crate::cli::LatencyArgs;

pub(crate) fn latency(args: &LatencyArgs) -> Result<()> {
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let engine = Engine::load(&config.engine)?;
    for warning in engine.warnings() {
        note!("ltd-trace: warning: {warning}");
    }
    let table = measure_latency(&config, &engine, usize::from(args.repeats), Progress::detect())?;
    table.write(&args.out)?;
    Ok(say!("written to {}\n\n{}", args.out.display(), describe_latency(&table))?)
}
