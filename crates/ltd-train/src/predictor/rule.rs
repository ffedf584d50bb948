//! How predicted tokens are weighed against time.

use ltd_engine::{CycleStats, Learned};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt, oracle};
use ltd_policy::{FactoredPolicy, FactoredRule, FrozenPredictor, LatencyTable};

use crate::Result;

/// Margins that are tried, in tokens.
const MARGINS: [f64; 6] = [0.0, 0.02, 0.04, 0.06, 0.08, 0.1];
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
    let reached = |rule: FactoredRule| {
        let policy = Learned::from(FactoredPolicy::new(predictor, table, rule));
        let cycles = oracle::replay_parallel(trace, &costs, || Box::new(policy.clone()));
        CycleStats::merged(&cycles).tokens_per_second()
    };
    let mut best = (f64::NEG_INFINITY, FactoredRule { tokens_per_second: start, margin: 0.0 });
    for margin in MARGINS {
        let mut lambda = start;
        for _ in 0..MOST_STEPS {
            interrupt.check()?;
            let rule = FactoredRule { tokens_per_second: lambda, margin };
            let throughput = reached(rule);
            if throughput > best.0 {
                best = (throughput, rule);
            }
            if (throughput / lambda - 1.0).abs() < SETTLED {
                break;
            }
            lambda = throughput;
        }
    }
    Ok(best.1)
}
