//! What is possible on a trace.

use ltd_cycle::{Controller, Copying, CycleStats, Static, WholeBeam};
use ltd_env::oracle::{self, Choices, Constant, Copies, Horizon, Sources};
use ltd_env::trace::{Trace, TracedSequence};
use ltd_env::{Copied, Costs, Cycle, Interrupt, RecordedTree, calibrate};
use ltd_policy::{Agreement, CopyRule, CycleSummary, LONGEST_MATCH, tree_candidates};

use crate::live::engine;
use crate::replay::costs;
use crate::trace::{record, whole};

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
        let stats = oracle::replay(&trace, &decided, &mut controller, &mut |_| ()).expect("a replay");
        let relative = stats.tokens_per_second() / constant.tokens_per_second() - 1.0;
        assert!(relative.abs() < 1e-6, "{constant:?} {relative}");
    }
    let whole = oracle::whole_beam_constants(&trace, &costs, &choices, &Interrupt::default())
        .expect("not interrupted");
    for (whole, constant) in whole.iter().zip(&constants) {
        let mut controller = WholeBeam(Static { depth: whole.depth, size: whole.size });
        let stats = oracle::replay(&trace, &decided, &mut controller, &mut |_| ()).expect("a replay");
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
    let stats = oracle::replay(&trace, &costs, &mut ByScore, &mut |_| ()).expect("a replay");
    assert!(
        stats.depths.len() > 1 && stats.sizes.len() > 1,
        "a controller that tells states apart: {stats:?}"
    );
    let parts = oracle::replay_parallel(&trace, &costs, |_| Box::new(ByScore)).expect("a replay");
    assert_eq!(parts.len(), trace.len());
    assert_eq!(CycleStats::merged(&parts), stats);
}

/// Tokens of a chain that are accepted, and the length of the match, by comparing with every
/// earlier place.
fn copied(tokens: &[u32], root: usize) -> (usize, usize) {
    let said = &tokens[..=root];
    let same = |end: usize| {
        let latest = said.iter().rev().zip(said[..end].iter().rev());
        latest.take(ltd_policy::LONGEST_MATCH).take_while(|(a, b)| a == b).count()
    };
    let length = (1..said.len()).map(same).max().unwrap_or(0);
    let end = (1..said.len()).rev().find(|&end| same(end) == length);
    let Some(end) = end.filter(|_| length > 0) else { return (0, 0) };
    let chain = (0..).map(|index| said[end + index % (said.len() - end)]);
    let accepted =
        chain.zip(&tokens[root + 1..tokens.len() - 1]).take_while(|(copied, said)| copied == *said);
    (length, accepted.count())
}

#[test]
fn a_copy_rule_is_a_replay_that_copies() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, costs) = (record(&engine, folder.path(), 48), costs().without_decisions());
    let choices = Choices { depths: vec![0, 1, 3], sizes: vec![2, 8, 30] };
    let never = &Interrupt::default();
    let copies = Copies::of(&trace);
    let constants = oracle::constants(&trace, &costs, &choices, never).expect("not interrupted");
    let best = oracle::best(&constants);
    let found = oracle::copy_rules(&trace, &costs, &choices, best, &copies, never).expect("not interrupted");
    // The fastest first.
    let rate = |found: &oracle::CopyConstant| found.constant.tokens_per_second();
    assert!(found.len() > 1 && found.is_sorted_by(|a, b| rate(a) >= rate(b)));
    let found = found[0];
    let oracle::CopyConstant { rule, constant } = found;
    let (mut tokens, mut seconds, mut copying) = (0, 0.0, 0);
    for sequence in &whole(&trace) {
        let (mut at, mut unread) = (0, 1);
        while at < sequence.len() {
            let (position, context) = (sequence.position(at), sequence.root(at));
            let (length, accepted) = copied(&sequence.tokens, context);
            let accepted = if length >= rule.match_length {
                copying += 1;
                seconds += costs.model.verify_ms(rule.chain, context) * 1e-3;
                accepted.min(rule.chain)
            } else {
                let (depth, size) = (constant.depth, constant.size);
                let size = size.min(tree_candidates(10, depth));
                let tree = RecordedTree { header: &trace.header, position };
                let mut cycle = tree.begin(constant.size);
                let expand = |_| {
                    let rows = cycle.summary().frontier;
                    tree.expand(&mut cycle);
                    rows
                };
                let level_rows: Vec<usize> = (0..depth).map(expand).collect();
                seconds += costs.timing(&level_rows, size, context, unread).total().as_secs_f64();
                unread = 0;
                position.accepted(depth, size)
            };
            unread += accepted + 1;
            tokens += accepted + 1;
            at += accepted + 1;
        }
    }
    assert!(copying > 0, "the tiny target says things again: {rule:?}");
    let sums = constant.sums;
    assert!(sums.tokens == tokens as f64 && (sums.seconds / seconds - 1.0).abs() < 1e-6, "{found:?}");

    // And so it is for whoever replays a controller.
    let Constant { depth, size, .. } = constant;
    let mut controller = Copying { rule, merged: None, trees: Static { depth, size } };
    let mut copies = 0;
    let stats = oracle::replay(&trace, &costs, &mut controller, &mut |outcome| {
        copies += usize::from(outcome.copied.is_some());
    });
    let stats = stats.expect("a replay");
    assert_eq!((stats.tokens, stats.copies, copies), (tokens, copying, copying));
    assert!((stats.timing.total().as_secs_f64() / seconds - 1.0).abs() < 1e-6, "{found:?}");
}

#[test]
fn foresight_of_the_source_is_above_that_of_trees() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, costs) = (record(&engine, folder.path(), 48), costs().without_decisions());
    let trees = Choices { depths: vec![0, 3], sizes: vec![2, 8] };
    let (copies, never) = (Copies::of(&trace), &Interrupt::default());
    let foresight = |trees: &Choices, chains: &[usize]| {
        let sources = Sources { trees: trees.clone(), chains: chains.to_vec() };
        let of = |horizon| {
            oracle::clairvoyant_source(&trace, &costs, &sources, &copies, horizon, never)
                .expect("not interrupted")
        };
        let (whole, cycles) = (of(Horizon::Sequence), of(Horizon::Cycle));
        assert!(cycles <= whole * (1.0 + 1e-9), "{cycles} is above {whole}");
        whole
    };
    let of_trees = oracle::clairvoyant(&trace, &costs, &trees, never).expect("not interrupted");
    assert!((foresight(&trees, &[]) / of_trees - 1.0).abs() < 1e-6);
    let of_all = foresight(&trees, &[0, 2, 8, 30]);
    assert!(of_all > of_trees, "{of_all} {of_trees}");
    let constants = oracle::constants(&trace, &costs, &trees, never).expect("not interrupted");
    let best = oracle::best(&constants);
    let rule = oracle::copy_rules(&trace, &costs, &trees, best, &copies, never).expect("not interrupted")[0];
    assert!(of_all >= rule.constant.tokens_per_second(), "{rule:?}");
    // With chains of no tokens alone it is plain decoding.
    let plain = trace.outlines().flat_map(|sequence| {
        (0..sequence.len()).map(|at| costs.model.verify_ms(0, sequence.root(at)) * 1e-3)
    });
    let none = Choices { depths: vec![], sizes: vec![] };
    let expected = trace.positions() as f64 / plain.sum::<f64>();
    assert!((foresight(&none, &[0]) / expected - 1.0).abs() < 1e-6);
}

#[test]
fn answers_are_cut_where_they_begin_to_loop() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 48);
    let mut sequence = (*whole(&trace)[0]).clone();
    let (begin, length) = (sequence.prompt_len, sequence.len());
    assert!(length > 40, "{length}");
    // Nothing twice, then the fifth token and those after it once more.
    for at in 0..length {
        sequence.tokens[begin + at] = 1000 + at as u32;
    }
    for at in 20..20 + oracle::LOOP + 3 {
        sequence.tokens[begin + at] = sequence.tokens[begin + at - 15];
    }
    let of = |sequence: &TracedSequence| Trace::new(trace.header.clone(), vec![sequence.clone()]);
    let trace = of(&sequence);
    let share = oracle::loop_share(&trace);
    assert!((share - (oracle::LOOP + 3) as f64 / length as f64).abs() < 1e-9, "{share}");
    let cut = oracle::without_loops(&trace);
    assert_eq!(cut.outline(0).len(), 20);
    assert_eq!(whole(&cut)[0].position(19).accepted(3, 8), sequence.position(19).accepted(3, 8));
    assert_eq!(oracle::loop_share(&cut), 0.0);
    // One token less is no loop.
    sequence.tokens[begin + 20 + 15] = 1;
    sequence.tokens[begin + 20 + 16] = 2;
    sequence.tokens[begin + 20 + 17] = 3;
    sequence.tokens[begin + 20 + 18] = 4;
    assert_eq!(oracle::loop_share(&of(&sequence)), 0.0);
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
        let traced = trace.sequence(sequence).expect("it is read");
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
    for sequence in 0..trace.len() {
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

#[test]
fn the_best_merged_rule_is_as_fast_as_any_that_merges_always() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, costs) = (record(&engine, folder.path(), 48), costs().without_decisions());
    let choices = Choices { depths: vec![0, 1], sizes: vec![4, 12] };
    let never = &Interrupt::default();
    let best = oracle::best(&oracle::constants(&trace, &costs, &choices, never).expect("not interrupted"));
    let copies = Copies::of(&trace);
    let rules = oracle::copy_rules(&trace, &costs, &choices, best, &copies, never).expect("not interrupted");
    let calibration = calibrate(&trace, never).expect("a trace with tokens");
    let found = oracle::merged_rule(&trace, &costs, &choices, rules[0], &calibration, never)
        .expect("a trace with tokens");
    let chain = rules[0].rule.chain;
    assert_eq!(found.chain, chain);
    // A tree that is merged with a chain where nothing matches is a tree.
    let Constant { depth, size, .. } = rules[0].constant;
    let mut merging = Copying {
        rule: CopyRule { match_length: 1, chain },
        trees: Static { depth, size },
        merged: Some(calibration.clone()),
    };
    let always = oracle::replay(&trace, &costs, &mut merging, &mut |_| ()).expect("a replay");
    assert!(found.merged.tokens_per_second() >= always.tokens_per_second() * (1.0 - 1e-9), "{found:?}");
    assert!(always.copied_tokens > 0 && always.copies < always.cycles, "{always:?}");
}

#[test]
fn a_calibration_is_the_share_that_is_right_by_what_the_head_thinks() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 48);
    let calibration = calibrate(&trace, &Interrupt::default()).expect("a trace with tokens");
    // Of the first tokens of chains, by agreement and length of the match: all, and those right.
    let mut counts = [[[0.0f64; 2]; LONGEST_MATCH]; 3];
    for sequence in &whole(&trace) {
        for (at, copied) in Copied::along(sequence).into_iter().enumerate() {
            let tree = RecordedTree { header: &trace.header, position: sequence.position(at) };
            let Some(found) = copied.found else { continue };
            let root = sequence.root(at);
            let (copy, said) = (sequence.tokens[found.end], sequence.tokens.get(root + 1));
            // The token after an accepted one must be known, too.
            let (Some(said), true) = (said, root + 2 < sequence.tokens.len()) else { continue };
            let agreement = tree.agreement(&sequence.tokens, copied).expect("a trace with tokens");
            let [all, right] = &mut counts[agreement as usize][found.length - 1];
            *all += 1.0;
            *right += f64::from(u8::from(copy == *said));
        }
    }
    for length in 1..=LONGEST_MATCH {
        let of = |agreement: usize| counts[agreement][length - 1];
        let [all, right] = [0, 1].map(|at| (0..3).map(|agreement| of(agreement)[at]).sum::<f64>());
        let laplace = (length + 1) as f64 / (length + 2) as f64;
        let share = (right + 10.0 * laplace) / (all + 10.0);
        for agreement in Agreement::ALL {
            let [all, right] = of(agreement as usize);
            let expected = (right + 10.0 * share) / (all + 10.0);
            let found = f64::from(calibration.copied(length, agreement, 1));
            assert!((found - expected).abs() < 1e-5, "{length}, {agreement:?}: {found}, not {expected}");
        }
    }
    let seen = counts.iter().filter(|counts| counts.iter().any(|[all, _]| *all > 0.0)).count();
    assert!(seen > 1, "{counts:?}");
}
