//! Trees, costs and outcomes made up for tests.

use std::time::Duration;

use ltd_cycle::{CycleOutcome, CycleTiming};
use ltd_policy::{CycleSummary, LatencyIdentity, LatencyTable, Surface};

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
