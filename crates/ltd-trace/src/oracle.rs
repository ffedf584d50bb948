//! `ltd-trace oracle`.

use std::path::Path;

use ltd_engine::{CycleStats, Learned};
use ltd_env::Costs;
use ltd_env::oracle::{self, Choices, Constant};
use ltd_env::trace::{Trace, TraceHeader};
use ltd_policy::{LatencyTable, PolicyPackage};
use serde::Serialize;

use crate::cli::OracleArgs;
use crate::{Error, Result};

/// What is possible on one trace.
#[derive(Debug, Serialize)]
struct Report {
    trace: String,
    prompts: usize,
    positions: usize,
    /// The choice at every position that is best with foresight, tokens per second.
    clairvoyant: f64,
    /// Foresight of the depth only, at the size that suits it best.
    clairvoyant_depth: f64,
    /// Foresight of the size only, at the depth that suits it best.
    clairvoyant_size: f64,
    best_constant: Setting,
    policies: Vec<Replay>,
    grid: Vec<Setting>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Setting {
    depth: usize,
    size: usize,
    tokens_per_second: f64,
}

/// A policy package on a trace.
#[derive(Debug, Serialize)]
struct Replay {
    policy: String,
    tokens_per_second: f64,
    /// `policy / best constant - 1`.
    gain: f64,
    /// Share of the gap between best constant and clairvoyant that is closed.
    closed: f64,
    mean_depth: f64,
    mean_size: f64,
}

impl From<Constant> for Setting {
    fn from(constant: Constant) -> Self {
        let Constant { depth, size, .. } = constant;
        Self { depth, size, tokens_per_second: constant.tokens_per_second() }
    }
}

pub(crate) fn oracle(args: &OracleArgs) -> Result<()> {
    let table = LatencyTable::read(&args.latency)?;
    let costs = Costs { model: table.model(), decision: table.decision };
    let mut reports = Vec::new();
    for folder in &args.traces {
        let trace = Trace::read(folder)?;
        for shard in &trace.truncated {
            eprintln!("{}: the last chunk is cut off and was passed over", shard.display());
        }
        check_fit(folder, &trace.header, &args.latency, &table)?;
        if trace.positions() == 0 {
            return Err(ltd_env::Error::EmptyTrace.into());
        }
        reports.push(report(folder, &trace, &table, &costs, args)?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports).expect("invariant: plain data"));
    } else {
        for report in &reports {
            println!("{}", describe(report));
        }
    }
    Ok(())
}

/// Fails unless trace and table are of the same models.
fn check_fit(folder: &Path, header: &TraceHeader, latency: &Path, table: &LatencyTable) -> Result<()> {
    let identity = &table.identity;
    for (what, of_trace, of_table) in [
        ("target", &header.target.sha256, &identity.target),
        ("draft", &header.draft.sha256, &identity.draft),
        ("beam width", &header.beam_width.to_string(), &identity.beam_width.to_string()),
    ] {
        if of_trace != of_table {
            return Err(Error::Usage(format!(
                "{}: its {what} is {of_trace}, that of {} is {of_table}",
                folder.display(),
                latency.display()
            )));
        }
    }
    Ok(())
}

fn report(
    folder: &Path,
    trace: &Trace,
    table: &LatencyTable,
    costs: &Costs,
    args: &OracleArgs,
) -> Result<Report> {
    let deepest = table.level.counts().last().copied().unwrap_or(0).min(trace.header.depth);
    let choices = Choices { depths: (0..=deepest).collect(), sizes: table.verify.counts() };
    let grid = oracle::constants(trace, costs, &choices);
    let best = Setting::from(oracle::best(&grid));
    let clairvoyant = oracle::clairvoyant(trace, costs, &choices);
    let highest = |candidates: Vec<Choices>| {
        let reached = candidates.iter().map(|choices| oracle::clairvoyant(trace, costs, choices));
        reached.fold(0.0, f64::max)
    };
    let at_sizes = choices.sizes.iter().map(|&size| Choices { sizes: vec![size], ..choices.clone() });
    let at_depths = choices.depths.iter().map(|&depth| Choices { depths: vec![depth], ..choices.clone() });
    let mut policies = Vec::new();
    for path in &args.policies {
        let package = PolicyPackage::load(path)?;
        let policy = Learned::of_package(&package);
        let parts = oracle::replay_parallel(trace, costs, || Box::new(policy.clone()));
        let stats = CycleStats::merged(&parts);
        let reached = stats.tokens_per_second();
        policies.push(Replay {
            policy: path.display().to_string(),
            tokens_per_second: reached,
            gain: reached / best.tokens_per_second - 1.0,
            closed: (reached - best.tokens_per_second) / (clairvoyant - best.tokens_per_second),
            mean_depth: stats.mean_depth(),
            mean_size: stats.mean_size(),
        });
    }
    Ok(Report {
        trace: folder.display().to_string(),
        prompts: trace.sequences.len(),
        positions: trace.positions(),
        clairvoyant,
        clairvoyant_depth: highest(at_sizes.collect()),
        clairvoyant_size: highest(at_depths.collect()),
        best_constant: best,
        policies,
        grid: grid.into_iter().map(Setting::from).collect(),
    })
}

fn describe(report: &Report) -> String {
    let best = report.best_constant;
    let row = |name: &str, reached: f64| {
        let gain = (reached / best.tokens_per_second - 1.0) * 100.0;
        format!("| {name} | {reached:.1} | {gain:+.1} % |")
    };
    let constant = format!("best constant: depth {}, size {}", best.depth, best.size);
    let mut lines = vec![
        format!("{}: {} prompts, {} positions\n", report.trace, report.prompts, report.positions),
        "| choice | tokens/s | over best constant |\n| --- | --- | --- |".to_owned(),
        row(&constant, best.tokens_per_second),
        row("foresight of the size", report.clairvoyant_size),
        row("foresight of the depth", report.clairvoyant_depth),
        row("foresight of both", report.clairvoyant),
    ];
    lines.extend(report.policies.iter().map(|replay| {
        let name = format!("{} (closes {:.0} % of the gap)", replay.policy, replay.closed * 100.0);
        row(&name, replay.tokens_per_second)
    }));
    lines.push("\ntokens/s of constants, depths down, sizes across\n".to_owned());
    let mut settings = report.grid.chunk_by(|a, b| a.depth == b.depth).peekable();
    if let Some(first) = settings.peek() {
        let sizes: String = first.iter().map(|setting| format!(" {} |", setting.size)).collect();
        lines.push(format!("| |{sizes}\n|{}", " --- |".repeat(first.len() + 1)));
    }
    lines.extend(settings.map(|settings| {
        let cells: String =
            settings.iter().map(|setting| format!(" {:.1} |", setting.tokens_per_second)).collect();
        format!("| {} |{cells}", settings[0].depth)
    }));
    lines.join("\n") + "\n"
}
