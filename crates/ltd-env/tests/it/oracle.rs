//! What is possible on a trace.

use ltd_cycle::{Controller, CycleStats, Static, WholeBeam};
use ltd_env::oracle::{self, Choices};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Cycle, Interrupt, RecordedTree};
use ltd_policy::{CycleSummary, tree_candidates};

use crate::live::engine;
use crate::replay::costs;
use crate::trace::record;

#[test]
fn nothing_beats_foresight_and_constants_are_replays() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, costs) = (record(&engine, folder.path(), 12), costs());
    let decided = costs.without_decisions();
    let choices = Choices { depths: vec![0, 1, 3, 6], sizes: vec![2, 8, 30] };
    let constants =
        oracle::constants(&trace, &costs, &choices, &Interrupt::default()).expect("not interrupted");
    for constant in &constants {
        let mut controller = Static { depth: constant.depth, size: constant.size };
        let stats = oracle::replay(&trace, &decided, &mut controller, &mut |_| ());
        let relative = stats.tokens_per_second() / constant.tokens_per_second() - 1.0;
        assert!(relative.abs() < 1e-6, "{constant:?} {relative}");
    }
    let whole = oracle::whole_beam_constants(&trace, &costs, &choices, &Interrupt::default())
        .expect("not interrupted");
    for (whole, constant) in whole.iter().zip(&constants) {
        let mut controller = WholeBeam(Static { depth: whole.depth, size: whole.size });
        let stats = oracle::replay(&trace, &decided, &mut controller, &mut |_| ());
        assert!((stats.tokens_per_second() / whole.tokens_per_second() - 1.0).abs() < 1e-6, "{whole:?}");
        assert!(whole.sums.tokens == constant.sums.tokens && whole.sums.seconds >= constant.sums.seconds);
    }
    let best = oracle::best(&constants).tokens_per_second();
    let ceiling =
        oracle::clairvoyant(&trace, &costs, &choices, &Interrupt::default()).expect("not interrupted");
    assert!(ceiling > best, "{ceiling} {best}");
    // With one choice there is nothing to foresee.
    let only = Choices { depths: vec![3], sizes: vec![8] };
    let constant = oracle::best(
        &oracle::constants(&trace, &costs, &only, &Interrupt::default()).expect("not interrupted"),
    )
    .tokens_per_second();
    assert!(
        (oracle::clairvoyant(&trace, &costs, &only, &Interrupt::default()).expect("not interrupted")
            / constant
            - 1.0)
            .abs()
            < 1e-6
    );
    assert!((brute_force(&trace, &decided, &choices) / ceiling - 1.0).abs() < 1e-6);
}

/// Decides by what it sees.
struct ByScore;

impl Controller for ByScore {
    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.scores.iter().sum::<f32>() / (summary.scores.len() as f32) > -9.0
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        summary.scores.iter().filter(|&&score| score > -4.0).count()
    }
}

#[test]
fn sequences_replay_at_the_same_time_as_they_do_in_order() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, costs) = (record(&engine, folder.path(), 24), costs());
    let stats = oracle::replay(&trace, &costs, &mut ByScore, &mut |_| ());
    assert!(
        stats.depths.len() > 1 && stats.sizes.len() > 1,
        "a controller that tells states apart: {stats:?}"
    );
    let parts = oracle::replay_parallel(&trace, &costs, || Box::new(ByScore));
    assert_eq!(parts.len(), trace.sequences.len());
    assert_eq!(CycleStats::merged(&parts), stats);
}

/// The best of all sequences of choices, one by one.
fn brute_force(trace: &Trace, costs: &Costs, choices: &Choices) -> f64 {
    /// All `(tokens, seconds)` that are reachable from a position.
    fn ways(
        trace: &Trace,
        costs: &Costs,
        choices: &Choices,
        sequence: usize,
        at: usize,
        rows: usize,
    ) -> Vec<(usize, f64)> {
        let traced = &trace.sequences[sequence];
        if at >= traced.len() {
            return vec![(0, 0.0)];
        }
        let position = traced.position(at);
        let mut found: Vec<(usize, f64)> = Vec::new();
        for (depth, size) in choices.pairs() {
            let tokens = position.accepted(depth, size) + 1;
            let size = size.min(tree_candidates(10, depth));
            let tree = RecordedTree { header: &trace.header, position };
            let mut cycle = tree.begin(size);
            let level_rows: Vec<usize> = (0..depth)
                .map(|_| {
                    let rows = cycle.summary().frontier;
                    tree.expand(&mut cycle);
                    rows
                })
                .collect();
            let context = position.context_length;
            let seconds = costs.timing(&level_rows, size, context, rows).total().as_secs_f64();
            for (more, later) in ways(trace, costs, choices, sequence, at + tokens, tokens) {
                found.push((tokens + more, seconds + later));
            }
        }
        // Of equal tokens only the fastest can be part of an optimum.
        found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        found.dedup_by_key(|way| way.0);
        found
    }
    let mut all = vec![(0usize, 0.0f64)];
    for sequence in 0..trace.sequences.len() {
        let ways = ways(trace, costs, choices, sequence, 0, 1);
        let mut sums: Vec<(usize, f64)> = all
            .iter()
            .flat_map(|(tokens, seconds)| ways.iter().map(move |way| (tokens + way.0, seconds + way.1)))
            .collect();
        sums.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        sums.dedup_by_key(|way| way.0);
        all = sums;
    }
    all.iter().map(|(tokens, seconds)| *tokens as f64 / seconds).fold(0.0, f64::max)
}
