//! How predicted tokens are weighed against time.

use ltd_engine::{CycleStats, Learned};
use ltd_env::trace::{Outline, Trace};
use ltd_env::{Costs, Interrupt, oracle};
use ltd_policy::factored::NEVER;
use ltd_policy::{
    FactoredPolicy, FactoredRule, FactoredSource, FrozenPredictor, FrozenSourcePredictor, LatencyTable,
};

use super::records::Records;
use crate::Result;

/// Margins that are tried, in tokens.
const MARGINS: [f64; 6] = [0.0, 0.02, 0.04, 0.06, 0.08, 0.1];
/// Tokens by which a copy, or a merged tree, must be better than the best tree.
const SOURCE_MARGINS: [f64; 10] = [-0.5, -0.2, 0.0, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 3.0];
/// Log-odds by which a copied token is taken to be less certain than predicted. It is not searched
/// for: recordings that a predictor learned from say little of how wrong it is
/// (docs/benchmarks/2026-11-29-knowledge.md).
const CAUTION: f64 = 0.7;
/// A throughput nearer than this to the last one is the same.
const SETTLED: f64 = 1e-3;
/// Steps per margin at most: an imperfect predictor can make the iteration go round in a circle.
const MOST_STEPS: usize = 6;

/// The rule that is fastest on a trace: for each margin, `lambda` is set to the throughput it led
/// to, from `start` on, until it stays (Dinkelbach 1967).
pub(crate) fn settle(
    predictor: &FrozenPredictor,
    table: &LatencyTable,
    trace: &Trace,
    start: f64,
    interrupt: &Interrupt,
) -> Result<FactoredRule> {
    let costs = Costs { model: table.model(), decision: table.decision };
    let reached = |margin, lambda| {
        let rule = FactoredRule { tokens_per_second: lambda, margin };
        let policy = FactoredPolicy::new(predictor, table, rule);
        throughput(trace, &costs, |_| policy.clone())
    };
    let (margin, tokens_per_second) = search(&MARGINS, start, interrupt, reached)?;
    Ok(FactoredRule { tokens_per_second, margin })
}

/// The same for a policy that decides what to draft from, too: its rule, which has the margin of
/// `rule`, and the source's. `records` are what its predictor knows of tokens, if it does.
pub(crate) fn settle_source(
    predictor: &FrozenPredictor,
    source: &FrozenSourcePredictor,
    records: Option<&Records>,
    rule: FactoredRule,
    table: &LatencyTable,
    trace: &Trace,
    interrupt: &Interrupt,
) -> Result<(FactoredRule, FactoredSource)> {
    let costs = Costs { model: table.model(), decision: table.decision };
    let caution = if source.actions().places > 0 { CAUTION } else { 0.0 };
    let of = |margin, merged_margin| {
        let tokens = records.map(|records| records.all().clone());
        FactoredSource { predictor: source.clone(), margin, merged_margin, caution, tokens }
    };
    let reached = |margin, merged_margin, lambda| {
        let rule = FactoredRule { tokens_per_second: lambda, ..rule };
        let (policy, deployed) = (FactoredPolicy::new(predictor, table, rule), of(margin, merged_margin));
        throughput(trace, &costs, |sequence| {
            let tokens = records.map(|records| records.of_others(sequence).clone());
            policy.clone().with_source(&FactoredSource { tokens, ..deployed.clone() })
        })
    };
    let merges = source.actions().source.merged.is_some();
    let unmerged = if merges { NEVER } else { 0.0 };
    let of_copies = |margin, lambda| reached(margin, unmerged, lambda);
    let (margin, lambda) = search(&SOURCE_MARGINS, rule.tokens_per_second, interrupt, of_copies)?;
    let (merged_margin, lambda) = if merges {
        let margins = [&[NEVER], &SOURCE_MARGINS[..]].concat();
        search(&margins, lambda, interrupt, |merged, lambda| reached(margin, merged, lambda))?
    } else {
        (unmerged, lambda)
    };
    Ok((FactoredRule { tokens_per_second: lambda, ..rule }, of(margin, merged_margin)))
}

fn throughput(
    trace: &Trace,
    costs: &Costs,
    policy: impl Fn(&Outline) -> FactoredPolicy + Sync,
) -> Result<f64> {
    let cycles = oracle::replay_parallel(trace, costs, |sequence| Box::new(Learned::from(policy(sequence))))?;
    Ok(CycleStats::merged(&cycles).tokens_per_second())
}

/// The margin and the lambda of which most is reached.
fn search(
    margins: &[f64],
    start: f64,
    interrupt: &Interrupt,
    reached: impl Fn(f64, f64) -> Result<f64>,
) -> Result<(f64, f64)> {
    let mut best = (f64::NEG_INFINITY, (margins[0], start));
    for &margin in margins {
        let mut lambda = start;
        for _ in 0..MOST_STEPS {
            interrupt.check()?;
            let throughput = reached(margin, lambda)?;
            if throughput > best.0 {
                best = (throughput, (margin, lambda));
            }
            if (throughput / lambda - 1.0).abs() < SETTLED {
                break;
            }
            lambda = throughput;
        }
    }
    Ok(best.1)
}
