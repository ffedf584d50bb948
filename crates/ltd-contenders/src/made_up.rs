//! Trees, costs and outcomes made up for tests.

use std::time::Duration;

use ltd_cycle::{CycleOutcome, CycleTiming};
use ltd_policy::{CycleSummary, LatencyIdentity, LatencyTable, Linear, Mlp, ModelIdentity, Models, Surface};

use crate::classifiers::Origin;
use crate::{AcceptanceHead, C2t, Classifier, Classifiers, Disco, Hvd};

/// What is known of a cycle; the whole beam goes on.
pub(crate) fn summary(beam_width: usize, draft_depth: usize, scores: &[f32]) -> CycleSummary<'_> {
    assert_eq!(scores.len(), beam_width + draft_depth * beam_width * beam_width);
    CycleSummary { scores, beam_width, frontier: beam_width, draft_depth, context_length: 100 }
}

/// Scores of a chain, a tree with a beam of one, from the probability of each token after those
/// before it.
pub(crate) fn chain(probabilities: &[f64]) -> Vec<f32> {
    let mut path = 1.0;
    let mut scores = Vec::new();
    for probability in probabilities {
        path *= probability;
        scores.push(path.ln() as f32);
    }
    scores
}

/// A cycle of a tree that is `draft_depth` deep, `accepted` tokens of which were right.
pub(crate) fn outcome(draft_depth: usize, accepted: usize) -> CycleOutcome {
    CycleOutcome {
        drafted: Some(accepted),
        accepted_ids: vec![0; accepted + 1],
        draft_depth,
        level_rows: vec![1; draft_depth],
        context_length: 100,
        timing: CycleTiming { verify: Duration::from_millis(10), ..CycleTiming::default() },
        ..CycleOutcome::default()
    }
}

/// A classifier whose log-odds are a sum of weighted features and a bias: one hidden unit is what
/// is above 0 of it, another one what is below.
pub(crate) fn classifier(weights: &[f32], bias: f32, hidden: usize, threshold: f64) -> Classifier {
    let negative: Vec<f32> = weights.iter().map(|weight| -weight).collect();
    let mut weight = [weights, &negative].concat();
    weight.resize(hidden * weights.len(), 0.0);
    let (mut biases, mut head) = (vec![bias, -bias], vec![1.0, -1.0]);
    biases.resize(hidden, 0.0);
    head.resize(hidden, 0.0);
    let first = Linear { weight, bias: biases, inputs: weights.len() };
    let mlp = Mlp::new(&[first, Linear { weight: head, bias: vec![0.0], inputs: hidden }]);
    Classifier::new(mlp, threshold)
}

/// A head whose residual layers add nothing, and whose log-odds are a sum of weighted numbers and a
/// bias.
pub(crate) fn acceptance_head(hidden: usize, weights: &[f32], bias: f32) -> AcceptanceHead {
    // silu(-100) is 0.
    let layer = Linear { weight: vec![0.0; hidden * hidden], bias: vec![-100.0; hidden], inputs: hidden };
    let output = Linear { weight: weights.to_vec(), bias: vec![bias], inputs: hidden };
    AcceptanceHead::new(&layer, &output).expect("invariant: it has these shapes")
}

/// Width of the states of made-up cycles.
pub(crate) const HIDDEN: usize = 3;

/// Classifiers that find probable what has a large probability and a small entropy.
pub(crate) fn classifiers(threshold: f64) -> Classifiers {
    let model = ModelIdentity { name: "model".to_owned(), sha256: "0".to_owned() };
    let models = Models { target: model.clone(), draft: model, beam_width: 4 };
    let mut weights = [0.0; Disco::FEATURES];
    (weights[0], weights[10]) = (3.0, -0.5);
    let disco = classifier(&weights, -1.0, Disco::HIDDEN, threshold);
    let c2t = classifier(&[3.0, -0.5, -0.1], -0.5, C2t::HIDDEN, threshold);
    let spec_dec = acceptance_head(HIDDEN, &[1.0, 0.0, -1.0], 1.0);
    let origin = Origin { trace: "trace".to_owned(), latency: "table".to_owned(), size: 60, seed: 1 };
    let hvd = classifier(&[4.0, 0.0, 0.0, 0.0, 1.0], -2.0, Hvd::HIDDEN, Hvd::THRESHOLD);
    Classifiers::new(&models, origin, disco, c2t, spec_dec, hvd)
}

/// A machine on which a root expansion takes 1 ms, a level `level_ms` and verification of `size`
/// candidates `verify_ms(size)`, measured up to 12 levels and 64 candidates.
pub(crate) fn table(beam_width: usize, level_ms: f64, verify_ms: impl Fn(f64) -> f64) -> LatencyTable {
    let sizes: Vec<usize> = (1..=64).collect();
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity { beam_width, ..LatencyIdentity::default() },
        root: Surface::from_fn(&[1, 13], &[100], |_, _| 1.0),
        level: Surface::from_fn(&[1, 12], &[100], |_, _| level_ms),
        level_rows: None,
        verify: Surface::from_fn(&sizes, &[100], |size, _| verify_ms(size)),
        decision: ltd_policy::DecisionCost::default(),
        held_out_error: None,
    }
}
