//! `ltd-trace oracle`.

mod plot;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{note, print_result};
use ltd_cycle::{Controller, CycleStats, Learned};
use ltd_env::oracle::{self, Choices, Constant, Copies, Horizon, Sources};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt, calibrate};
use ltd_policy::{Conditions, LatencyTable, PolicyPackage, SamplingParams, check_output_file, json_text};
use serde::Serialize;

use crate::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct OracleArgs {
    /// Folder of a trace; may be repeated, for instance one per task
    #[arg(long = "trace", value_name = "DIR", required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// Latency table of the machine
    #[arg(long, value_name = "FILE")]
    pub(crate) latency: PathBuf,
    /// Policy package to replay; may be repeated
    #[arg(long = "policy", value_name = "DIR")]
    pub(crate) policies: Vec<PathBuf>,
    /// Replay packages of other models too, as an experiment
    #[arg(long)]
    pub(crate) any_models: bool,
    /// Draw tokens/s of all constants, as SVG; one picture per trace, below each other
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Print JSON in place of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is possible on some traces.
#[derive(Debug, Serialize)]
struct Findings {
    traces: Vec<Report>,
    /// One constant for all traces; null if there is one trace.
    common_constant: Option<Common>,
}

/// What is possible on one trace.
#[derive(Debug, Serialize)]
struct Report {
    trace: String,
    /// How the continuations were decoded.
    sampling: SamplingParams,
    prompts: usize,
    /// As many as prompts if they are greedy, else one per prompt and seed.
    continuations: usize,
    positions: usize,
    /// The choice at every position that is best with foresight, tokens per second.
    clairvoyant: f64,
    /// Foresight of the depth only, at the size that suits it best.
    clairvoyant_depth: f64,
    /// Foresight of the size only, at the depth that suits it best.
    clairvoyant_size: f64,
    /// Foresight of whether to copy, between the two settings of the best copy rule.
    clairvoyant_source: f64,
    /// Foresight of the source, of a tree's depth and size, and of a chain's length.
    clairvoyant_copies: f64,
    /// The same, where each choice looks at its own cycle only.
    clairvoyant_cycles: f64,
    best_constant: Setting,
    best_copy_rule: CopyRule,
    /// The same, with merged trees where less matches; null where the trace lacks the candidates'
    /// tokens.
    best_merged_rule: Option<MergedRule>,
    /// The best of constants that expand the whole beam, as EAGLE-3 drafts.
    best_whole_beam: Setting,
    policies: Vec<Replay>,
    grid: Vec<Setting>,
    /// Share of the tokens that are in a loop of the answer.
    loops: f64,
    /// The same for answers cut where their first loop begins; null where there is none.
    without_loops: Option<Box<Report>>,
    #[serde(skip)]
    constants: Vec<Constant>,
}

/// Copies `chain` tokens where at least `match_length` of the latest ones were said before, and
/// drafts with the constant elsewhere.
#[derive(Debug, Clone, Copy, Serialize)]
struct CopyRule {
    match_length: usize,
    chain: usize,
    #[serde(flatten)]
    constant: Setting,
}

/// Copies by a rule; merges trees of this setting with a chain as long where fewer tokens match.
#[derive(Debug, Clone, Copy, Serialize)]
struct MergedRule {
    /// Latest tokens that must match to copy; null never copies.
    copies_from: Option<usize>,
    /// Tokens to copy, at most where they are merged.
    chain: usize,
    #[serde(flatten)]
    merged: Setting,
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
    /// Share of the gap between best constant and clairvoyant (for a policy that copies, the one
    /// with copies) that is closed; null if there is none.
    closed: Option<f64>,
    depth: Distribution,
    /// Sizes as they were asked for, whatever a small tree made of them.
    size: Distribution,
}

/// What one of a policy's two choices was, over all cycles.
#[derive(Debug, Serialize)]
struct Distribution {
    is_constant: bool,
    mean: f64,
    /// Standard deviation.
    std: f64,
    /// Cycles by choice.
    histogram: BTreeMap<usize, usize>,
}

/// The constant that is best on all traces together, beside those that are best on each.
#[derive(Debug, Serialize)]
struct Common {
    constant: Setting,
    traces: Vec<Loss>,
}

#[derive(Debug, Serialize)]
struct Loss {
    trace: String,
    /// The trace's own best constant.
    own: Setting,
    /// Throughput of the common constant on this trace.
    common_tokens_per_second: f64,
    /// Share of its own throughput, `1 - common / own`.
    lost: f64,
}

impl From<Constant> for Setting {
    fn from(constant: Constant) -> Self {
        let Constant { depth, size, .. } = constant;
        Self { depth, size, tokens_per_second: constant.tokens_per_second() }
    }
}

impl From<oracle::CopyConstant> for CopyRule {
    fn from(found: oracle::CopyConstant) -> Self {
        let oracle::CopyConstant { rule: ltd_policy::CopyRule { match_length, chain }, constant } = found;
        Self { match_length, chain, constant: constant.into() }
    }
}

impl From<oracle::MergedConstant> for MergedRule {
    fn from(found: oracle::MergedConstant) -> Self {
        let oracle::MergedConstant { copies_from, chain, merged } = found;
        Self { copies_from, chain, merged: merged.into() }
    }
}

impl Distribution {
    fn new(histogram: &BTreeMap<usize, usize>) -> Self {
        let cycles: usize = histogram.values().sum();
        let mean_of = |value: &dyn Fn(f64) -> f64| {
            let sum: f64 =
                histogram.iter().map(|(&choice, &count)| value(choice as f64) * count as f64).sum();
            sum / cycles.max(1) as f64
        };
        let mean = mean_of(&|choice| choice);
        Self {
            is_constant: histogram.len() <= 1,
            mean,
            std: mean_of(&|choice| (choice - mean).powi(2)).sqrt(),
            histogram: histogram.clone(),
        }
    }
}

pub(crate) fn oracle(args: &OracleArgs) -> Result<()> {
    if let Some(path) = &args.plot {
        check_output_file("--plot", path, [args.latency.as_path()])?;
    }
    let table = LatencyTable::read(&args.latency)?;
    let costs = Costs { model: table.model(), decision: table.decision };
    let packages: Vec<PolicyPackage> =
        args.policies.iter().map(|path| Ok(PolicyPackage::load(path)?)).collect::<Result<_>>()?;
    let named = args.policies.iter().zip(&packages);
    let policies: Vec<(String, Learned)> =
        named.map(|(path, package)| (path.display().to_string(), Learned::of_package(package))).collect();
    let mut traces = Vec::new();
    let mut warnings = BTreeSet::new();
    for folder in &args.traces {
        let trace = Trace::read_replayable(folder)?;
        for shard in &trace.truncated {
            note!("{}: the last chunk is cut off and was passed over", shard.display());
        }
        let models = trace.header.models();
        models.check(folder, &args.latency.display().to_string(), &table.identity.models())?;
        for (path, package) in args.policies.iter().zip(&packages) {
            let (width, depth) = (trace.header.beam_width, trace.header.depth);
            let models = (!args.any_models).then_some(&models);
            package.check_steers(path, &folder.display().to_string(), models, width, depth)?;
            // Costs are those of the table, whatever the policy was made for.
            if let Some(warning) = package.warning(&Conditions::of_sampling(trace.header.sampling)) {
                let warning = format!("ltd-trace: warning: {}: {warning}", path.display());
                // Of several traces alike it is said once.
                if warnings.insert(warning.clone()) {
                    note!("{warning}");
                }
            }
            if package.policy.merges() && !trace.header.has_candidates() {
                let problem = ltd_env::Error::NoCandidates.to_string();
                return Err(ltd_env::Error::Trace { path: folder.clone(), problem }.into());
            }
        }
        if trace.positions() == 0 {
            return Err(ltd_env::Error::EmptyTrace.into());
        }
        traces.push(report(folder, &trace, &table, &costs, &policies)?);
    }
    let common_constant = if traces.len() > 1 { common(&traces) } else { None };
    let findings = Findings { traces, common_constant };
    let text = if args.json { json_text(&findings) } else { tables::describe(&findings) + "\n" };
    let printed = print_result(format_args!("{text}"));
    if let Some(path) = &args.plot {
        plot::write(path, &findings.traces)?;
    }
    Ok(printed?)
}

fn report(
    folder: &Path,
    trace: &Trace,
    table: &LatencyTable,
    costs: &Costs,
    learned: &[(String, Learned)],
) -> Result<Report> {
    // Nothing is lost that an interruption could save: it ends the program at once.
    let interrupt = &Interrupt::default();
    let deepest = table.level.counts().last().copied().unwrap_or(0).min(trace.header.depth);
    let choices = Choices { depths: (0..=deepest).collect(), sizes: table.verify.counts() };
    let constants = oracle::constants(trace, costs, &choices, interrupt)?;
    let best = Setting::from(oracle::best(&constants));
    let clairvoyant = oracle::clairvoyant(trace, costs, &choices, interrupt)?;
    let highest = |candidates: Vec<Choices>| {
        candidates.iter().try_fold(0.0, |highest: f64, choices| {
            Ok::<_, Error>(highest.max(oracle::clairvoyant(trace, costs, choices, interrupt)?))
        })
    };
    let at_sizes = choices.sizes.iter().map(|&size| Choices { sizes: vec![size], ..choices.clone() });
    let at_depths = choices.depths.iter().map(|&depth| Choices { depths: vec![depth], ..choices.clone() });
    let best_whole_beam = oracle::best(&oracle::whole_beam_constants(trace, costs, &choices, interrupt)?);
    let copies = Copies::of(trace);
    let rule = oracle::copy_rules(trace, costs, &choices, oracle::best(&constants), &copies, interrupt)?[0];
    let merged = if trace.header.has_candidates() {
        let calibration = calibrate(trace, interrupt)?;
        Some(oracle::merged_rule(trace, costs, &choices, rule, &calibration, interrupt)?)
    } else {
        None
    };
    let foresight = |sources: &Sources, horizon| {
        oracle::clairvoyant_source(trace, costs, sources, &copies, horizon, interrupt)
    };
    let of_rule = Sources {
        trees: Choices { depths: vec![rule.constant.depth], sizes: vec![rule.constant.size] },
        chains: vec![rule.rule.chain],
    };
    let clairvoyant_source = foresight(&of_rule, Horizon::Sequence)?;
    // A chain of no tokens is plain decoding.
    let chains = std::iter::once(0).chain(choices.sizes.iter().copied()).collect();
    let all = Sources { trees: choices.clone(), chains };
    let clairvoyant_copies = foresight(&all, Horizon::Sequence)?;
    let clairvoyant_cycles = foresight(&all, Horizon::Cycle)?;
    let mut policies = Vec::new();
    for (name, policy) in learned {
        let parts = oracle::replay_parallel(trace, costs, |_| Box::new(policy.clone()))?;
        let stats = CycleStats::merged(&parts);
        let reached = stats.tokens_per_second();
        policies.push(Replay {
            policy: name.clone(),
            tokens_per_second: reached,
            gain: reached / best.tokens_per_second - 1.0,
            // Whoever copies has more to choose from.
            closed: oracle::closed(
                reached,
                best.tokens_per_second,
                if policy.chooses_source() { clairvoyant_copies } else { clairvoyant },
            ),
            depth: Distribution::new(&stats.depths),
            size: Distribution::new(&stats.requested_sizes),
        });
    }
    let loops = oracle::loop_share(trace);
    let without_loops = if loops > 0.0 {
        Some(Box::new(report(folder, &oracle::without_loops(trace), table, costs, learned)?))
    } else {
        None
    };
    Ok(Report {
        trace: folder.display().to_string(),
        sampling: trace.header.sampling,
        prompts: trace.prompts(),
        continuations: trace.len(),
        positions: trace.positions(),
        clairvoyant,
        clairvoyant_depth: highest(at_sizes.collect())?,
        clairvoyant_size: highest(at_depths.collect())?,
        best_constant: best,
        clairvoyant_source,
        clairvoyant_copies,
        clairvoyant_cycles,
        best_copy_rule: rule.into(),
        best_merged_rule: merged.map(MergedRule::from),
        best_whole_beam: best_whole_beam.into(),
        loops,
        without_loops,
        policies,
        grid: constants.iter().copied().map(Setting::from).collect(),
        constants,
    })
}

/// The best constant of all traces together, among those that all of them have.
fn common(traces: &[Report]) -> Option<Common> {
    let (first, others) = traces.split_first()?;
    let on_trace = |report: &Report, wanted: &Constant| {
        let same = |constant: &&Constant| (constant.depth, constant.size) == (wanted.depth, wanted.size);
        report.constants.iter().find(same).copied()
    };
    let everywhere = first.constants.iter().filter_map(|constant| {
        let parts: Option<Vec<Constant>> = others.iter().map(|report| on_trace(report, constant)).collect();
        let sums = parts?.iter().fold(constant.sums, |sums, part| sums + part.sums);
        Some(Constant { sums, ..*constant })
    });
    let constant = oracle::best(&everywhere.collect::<Vec<_>>());
    let losses = traces.iter().filter_map(|report| {
        let own = report.best_constant;
        let reached = on_trace(report, &constant)?.tokens_per_second();
        Some(Loss {
            trace: report.trace.clone(),
            own,
            common_tokens_per_second: reached,
            lost: 1.0 - reached / own.tokens_per_second,
        })
    });
    Some(Common { constant: constant.into(), traces: losses.collect() })
}

#[cfg(test)]
mod tests {
    use ltd_env::oracle::Sums;

    use super::*;

    fn report(name: &str, constants: &[(usize, usize, f64, f64)]) -> Report {
        let constants: Vec<Constant> = constants
            .iter()
            .map(|&(depth, size, tokens, seconds)| Constant { depth, size, sums: Sums { tokens, seconds } })
            .collect();
        Report {
            trace: name.to_owned(),
            sampling: SamplingParams::default(),
            prompts: 1,
            continuations: 1,
            positions: 1,
            clairvoyant: 1.0,
            clairvoyant_depth: 1.0,
            clairvoyant_size: 1.0,
            best_constant: oracle::best(&constants).into(),
            best_whole_beam: oracle::best(&constants).into(),
            clairvoyant_source: 1.0,
            clairvoyant_copies: 1.0,
            clairvoyant_cycles: 1.0,
            best_copy_rule: oracle::CopyConstant {
                rule: ltd_policy::CopyRule { match_length: 1, chain: 1 },
                constant: oracle::best(&constants),
            }
            .into(),
            best_merged_rule: None,
            loops: 0.0,
            without_loops: None,
            policies: Vec::new(),
            grid: Vec::new(),
            constants,
        }
    }

    #[test]
    fn the_common_constant_is_best_on_all_tokens_and_each_trace_loses_to_its_own() {
        // The first trace is longer, the last one is not as deep.
        let traces = [
            report("a", &[(0, 4, 900.0, 10.0), (1, 4, 900.0, 9.0), (2, 4, 900.0, 1.0)]),
            report("b", &[(0, 4, 100.0, 1.0), (1, 4, 100.0, 1.25)]),
        ];
        let found = common(&traces).expect("two traces");
        assert_eq!((found.constant.depth, found.constant.size), (1, 4));
        assert!((found.constant.tokens_per_second - 1000.0 / 10.25).abs() < 1e-9);
        let losses: Vec<(usize, f64)> = found.traces.iter().map(|loss| (loss.own.depth, loss.lost)).collect();
        assert_eq!((losses[0].0, losses[1].0), (2, 0));
        assert!(
            (losses[0].1 - (1.0 - 1.0 / 9.0)).abs() < 1e-9 && (losses[1].1 - 0.2).abs() < 1e-9,
            "{losses:?}"
        );
    }

    #[test]
    fn a_distribution_tells_a_constant_from_choices() {
        let found = Distribution::new(&BTreeMap::from([(2, 3), (6, 1)]));
        assert_eq!((found.is_constant, found.mean), (false, 3.0));
        assert!((found.std - 3f64.sqrt()).abs() < 1e-12);
        let constant = Distribution::new(&BTreeMap::from([(4, 7)]));
        assert!(constant.is_constant && constant.mean == 4.0 && constant.std == 0.0);
    }
}
