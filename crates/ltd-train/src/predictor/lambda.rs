//! What time is worth.

use ltd_engine::Learned;
use ltd_env::trace::Trace;
use ltd_env::{Costs, oracle};
use ltd_policy::{FactoredPolicy, FrozenPredictor, LatencyTable};

/// Decisions that change the throughput by less no longer matter.
const SETTLED: f64 = 1e-4;
const MOST_STEPS: usize = 20;

/// The throughput that a factored policy reaches when its `lambda` is that throughput, by iteration from `start`
/// (Dinkelbach 1967). With an imperfect predictor the iteration may end in a cycle: then the best `lambda` met.
pub(crate) fn settle(predictor: &FrozenPredictor, table: &LatencyTable, trace: &Trace, start: f64) -> f64 {
    let costs = Costs { model: table.model(), decision: table.decision };
    let (mut lambda, mut best) = (start, (f64::NEG_INFINITY, start));
    for _ in 0..MOST_STEPS {
        let mut controller = Learned::from(FactoredPolicy::new(predictor, table, lambda));
        let reached = oracle::replay(trace, &costs, &mut controller, &mut |_| ()).tokens_per_second();
        if reached > best.0 {
            best = (reached, lambda);
        }
        if (reached / lambda - 1.0).abs() < SETTLED {
            break;
        }
        lambda = reached;
    }
    best.1
}
