//! `ltd-bench engine`: what the engine takes, beside what the machine would allow.

mod args;
mod decode;
mod floor;
mod forwards;
mod launches;
mod memory;
mod operations;
mod report;
mod spread;
mod subject;
mod table;

use ltd_console::print_result;
use ltd_engine::Static;
use ltd_policy::write_json;
use ltd_run::Progress;

use crate::error::Result;
pub(crate) use args::EngineArgs;
use decode::{Contender, decode};
use floor::{Limits, Work};
use forwards::measure_forwards;
use launches::count_launches;
use memory::{Resident, measure_memory};
use operations::measure_operations;
use report::{Autoregressive, Cycle, Header, Report};
use subject::Subject;

pub(crate) fn run(args: &EngineArgs) -> Result<()> {
    args.check()?;
    let progress = Progress::detect();
    let at_start = Resident::now();
    let mut subject = Subject::load(args)?;
    args.check_fit(&subject.engine)?;
    let header = Header::collect(args, &subject);
    progress.say(&format!("{}, dtype {}", header.device_text(), subject.engine.dtype()));
    if let Some(problem) = header.no_packed_weights {
        progress.say(&format!("oneDNN's packed weights are not used: {problem}"));
    }

    // Memory first: later measurements need memory of their own.
    let (memory, forwards_share) = measure_memory(&mut subject, at_start, args, progress)?;
    let mut contenders: Vec<Contender> =
        std::iter::once(None).chain(args.trees.iter().copied().map(Some)).map(Contender::new).collect();
    decode(&subject, &mut contenders, args.max_new_tokens, progress)?;
    let forwards = measure_forwards(&subject, args, progress)?;
    let limits = forwards.limits;
    let operations = args.per_op.then(|| measure_operations(&subject, args, progress)).transpose()?;

    let launches = args.launches.then(|| count_launches(&subject, args)).transpose()?;

    let (plain, speculative) = contenders.split_first().expect("invariant: plain decoding is the first");
    let cycles = speculative.iter().zip(&forwards_share);
    let report = Report {
        autoregressive: autoregressive(plain, &subject, &limits),
        verify: forwards.verify(&subject.engine, args),
        draft_level: forwards.draft_levels(&subject.engine, args),
        cycles: cycles.map(|(contender, outside)| cycle(contender, *outside, &subject, &limits)).collect(),
        outside_forwards_share: memory::overall(&forwards_share),
        operations,
        launches,
        memory,
        limits,
        header,
    };
    if let Some(warning) = subject.engine.late_warning() {
        progress.say(&format!("warning: {warning}"));
    }
    write_json(&args.json, &report)?;
    Ok(print_result(format_args!("{}", table::text(&report)))?)
}

fn autoregressive(contender: &Contender, subject: &Subject, limits: &Limits) -> Autoregressive {
    let ms = contender.cycle_ms();
    let context = contender.stats().mean_context_length() as usize;
    let floor_ms = limits.floor_ms(Work::target_forward(&subject.engine, context, 1));
    Autoregressive {
        tokens_per_second: 1e3 / ms.median,
        tokens_per_second_quartiles: [1e3 / ms.quartiles[1], 1e3 / ms.quartiles[0]],
        mean_tokens_per_second: contender.stats().tokens_per_second(),
        ms: ms.median,
        ms_quartiles: ms.quartiles,
        tokens: contender.stats().tokens,
        context,
        floor_ms,
        share_of_bandwidth: floor_ms / ms.median,
    }
}

fn cycle(contender: &Contender, outside: memory::Outside, subject: &Subject, limits: &Limits) -> Cycle {
    let Static { depth, size } = contender.tree().expect("invariant: only the first decodes plainly");
    let stats = contender.stats();
    let ms = contender.cycle_ms();
    let context = stats.mean_context_length() as usize;
    let engine = &subject.engine;
    let verification = limits.floor_ms(Work::target_forward(engine, context, size + 1));
    // The root expansion is a level of about as many rows as were accepted.
    let levels = (1 + depth) as f64 * limits.floor_ms(Work::draft_level(engine, context));
    Cycle {
        depth,
        size,
        ms: ms.median,
        ms_quartiles: ms.quartiles,
        cycles: stats.cycles,
        tokens_per_second: stats.tokens_per_second(),
        acceptance_length: stats.acceptance_length(),
        outside_forwards_ms: outside.ms_per_cycle(),
        outside_forwards_share: outside.share(),
        floor_ms: verification + levels,
    }
}
