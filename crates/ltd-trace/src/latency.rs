//! `ltd-trace latency`.

use ltd_engine::Engine;
use ltd_train::{Progress, TrainConfig, describe_latency, measure_latency};

use crate::Result;
use crate::cli::LatencyArgs;

pub(crate) fn latency(args: &LatencyArgs) -> Result<()> {
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let engine = Engine::load(&config.engine)?;
    let models = config.engine.models()?;
    let table = measure_latency(&config, &engine, &models, usize::from(args.repeats), Progress::detect())?;
    table.write(&args.out)?;
    println!("written to {}\n\n{}", args.out.display(), describe_latency(&table));
    Ok(())
}
