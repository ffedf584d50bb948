//! Policies with arbitrary weights.

use std::sync::Arc;

use ltd_policy::{
    Actions, Calibration, DecisionCost, DepthActions, FactoredActions, FrozenPolicy, FrozenPredictor,
    FrozenSourcePredictor, LatencyIdentity, LatencyTable, Linear, Merged, Mlp, ObservationLayout, PolicyKind,
    Segment, SizeActions, Source, SourceActions, SourceOutcomes, Surface, TokenRecord, sha256_hex,
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

/// Chains, and merged trees.
fn source_actions() -> SourceActions {
    let merged = Merged { chain: 6, calibration: Calibration::default() };
    SourceActions { chains: vec![2, 8], merged: Some(merged) }
}

pub(crate) fn source_policy() -> FrozenPolicy {
    let layout = ObservationLayout::sequence(3, 4);
    let probes = (0..4).map(|probe| vec![0.2 * probe as f32; layout.len()]).collect();
    let actions = Actions::Source(source_actions());
    let mlp = mlp(&[layout.len(), 8, 4], 5.0);
    FrozenPolicy::new(layout, actions, mlp, probes)
}

pub(crate) fn source_predictor() -> FrozenSourcePredictor {
    let layout = ObservationLayout::sequence_with_tokens(3, 4);
    let probes = (0..4).map(|probe| vec![0.2 * probe as f32; layout.len()]).collect();
    let outcomes = SourceOutcomes { source: source_actions(), trees: factored_actions(), places: 8 };
    let mlp = mlp(&[layout.len(), 16, 8 + 15 + 15], 6.0);
    FrozenSourcePredictor::new(layout, outcomes, mlp, probes)
}

/// A predictor of packages before version 7: of each chain it tells a number, and of tokens it
/// knows nothing.
pub(crate) fn old_source_predictor() -> FrozenSourcePredictor {
    let sequence = Segment { source: Source::Sequence, offset: 0, length: 10, scale: 1.0 };
    let layout =
        ObservationLayout { version: 1, segments: vec![sequence], ..ObservationLayout::sequence(3, 4) };
    let probes = (0..4).map(|probe| vec![0.2 * probe as f32; layout.len()]).collect();
    let outcomes = SourceOutcomes { source: source_actions(), trees: factored_actions(), places: 0 };
    let mlp = mlp(&[layout.len(), 16, 2 + 15 + 15], 6.0);
    FrozenSourcePredictor::new(layout, outcomes, mlp, probes)
}

pub(crate) fn token_record() -> Arc<TokenRecord> {
    let mut record = TokenRecord::default();
    (0..5).for_each(|root| record.observe(root, 3, root % 2 == 0));
    Arc::new(record)
}

/// A machine on which a level takes `level_ms` and each candidate adds `candidate_ms` to a
/// verification.
pub(crate) fn latency_table(level_ms: f64, candidate_ms: f64) -> LatencyTable {
    let contexts = [50, 400];
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: sha256_hex(b"target"),
            draft: sha256_hex(b"draft"),
            beam_width: 3,
            ..LatencyIdentity::default()
        },
        root: Surface::from_fn(&[1, 5], &contexts, |rows, _| 1.0 + 0.1 * rows),
        level: Surface::from_fn(&[1, 4], &contexts, |_, context| level_ms * (1.0 + 0.001 * context)),
        level_rows: None,
        verify: Surface::from_fn(&[1, 40], &contexts, |size, context| {
            10.0 + candidate_ms * size + 0.01 * context
        }),
        decision: DecisionCost { depth_us: 20.0, size_us: 20.0 },
        held_out_error: None,
    }
}
