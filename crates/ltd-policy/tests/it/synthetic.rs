//! Policies with arbitrary weights.

use ltd_policy::{
    Actions, DecisionCost, DepthActions, FactoredActions, FrozenPolicy, FrozenPredictor, GridPoint,
    LatencyIdentity, LatencyTable, Linear, Mlp, ObservationLayout, PolicyKind, SizeActions, Surface,
    sha256_hex,
};

pub(crate) fn mlp(widths: &[usize], seed: f32) -> Mlp {
    let layers: Vec<Linear> = widths
        .windows(2)
        .map(|pair| {
            let value = |index: usize| ((index as f32 + seed) * 0.618).sin() * 0.2;
            Linear {
                weight: (0..pair[0] * pair[1]).map(value).collect(),
                bias: (0..pair[1]).map(|index| value(index + 7)).collect(),
                inputs: pair[0],
            }
        })
        .collect();
    Mlp::new(&layers)
}

pub(crate) fn depth_policy() -> FrozenPolicy {
    let layout = ObservationLayout::reference_depth(3, 4);
    let probes = (0..4).map(|probe| vec![-0.5 * probe as f32; layout.len()]).collect();
    let actions = Actions::Depth(DepthActions { min_depth: 0, max_depth: 4, decide_every: 1 });
    let mlp = mlp(&[layout.len(), 8, 2], 1.0);
    FrozenPolicy::new(layout, actions, mlp, probes)
}

pub(crate) fn size_policy() -> FrozenPolicy {
    let layout = ObservationLayout::reference_size(3, 4);
    let probes = (0..4).map(|probe| vec![-0.5 * probe as f32; layout.len()]).collect();
    let actions = Actions::Size(SizeActions { sizes: vec![2, 5, 9] });
    let mlp = mlp(&[layout.len(), 16, 8, 3], 2.0);
    FrozenPolicy::new(layout, actions, mlp, probes)
}

/// The same decisions from compact observations.
pub(crate) fn compact_pair() -> (FrozenPolicy, FrozenPolicy) {
    let pair = [(depth_policy(), 8), (size_policy(), 16)].map(|(policy, hidden)| {
        let layout = ObservationLayout::compact(policy.kind(), 3, 4);
        let probes = (0..4).map(|probe| vec![0.2 * probe as f32; layout.len()]).collect();
        let mlp = mlp(&[layout.len(), hidden, policy.actions().count()], 3.0);
        FrozenPolicy::new(layout, policy.actions().clone(), mlp, probes)
    });
    pair.into()
}

pub(crate) fn factored_actions() -> FactoredActions {
    FactoredActions {
        depth: DepthActions { min_depth: 0, max_depth: 4, decide_every: 1 },
        size: SizeActions { sizes: vec![2, 5, 9] },
    }
}

pub(crate) fn predictor() -> FrozenPredictor {
    let layout = ObservationLayout::compact(PolicyKind::Depth, 3, 4);
    let probes = (0..4).map(|probe| vec![0.2 * probe as f32; layout.len()]).collect();
    let mlp = mlp(&[layout.len(), 16, 15], 4.0);
    FrozenPredictor::new(layout, factored_actions(), mlp, probes)
}

/// A machine on which a level takes `level_ms` and each candidate adds `candidate_ms` to a verification.
pub(crate) fn latency_table(level_ms: f64, candidate_ms: f64) -> LatencyTable {
    let surface = |counts: [usize; 2], ms: &dyn Fn(f64, f64) -> f64| {
        let places = [50, 400].into_iter().flat_map(|context| counts.map(|count| (count, context)));
        let points = places.map(|(count, context)| {
            GridPoint::new(count, context, vec![ms(count as f64, context as f64) as f32; 3])
        });
        Surface { points: points.collect() }
    };
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: sha256_hex(b"target"),
            draft: sha256_hex(b"draft"),
            dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
            driver: None,
            threads: 1,
            machine: "test".to_owned(),
            beam_width: 3,
        },
        root: surface([1, 5], &|rows, _| 1.0 + 0.1 * rows),
        level: surface([1, 4], &|_, context| level_ms * (1.0 + 0.001 * context)),
        verify: surface([1, 40], &|size, context| 10.0 + candidate_ms * size + 0.01 * context),
        decision: DecisionCost { depth_us: 20.0, size_us: 20.0 },
        held_out_error: None,
    }
}
