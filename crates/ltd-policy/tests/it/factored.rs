use std::sync::Arc;

use ltd_policy::{
    Agreement, Calibration, CycleSummary, DepthActions, DepthRule, DraftSource, FactoredActions,
    FactoredPolicy, FactoredRule, FactoredSource, FrozenPredictor, FrozenSourcePredictor, LatencyTable,
    Linear, Merged, Mlp, ObservationLayout, PolicyKind, SizeActions, SourceActions, SourceOutcomes,
    SourceSummary, TokenRecord,
};
use proptest::prelude::*;

use crate::synthetic::{factored_actions, latency_table, predictor};

/// A predictor whose outputs do not depend on what it sees.
fn constant_predictor(actions: FactoredActions, outputs: Vec<f32>) -> FrozenPredictor {
    let layout = ObservationLayout::compact(PolicyKind::Depth, 3, actions.depth.max_depth);
    let linear =
        Linear { weight: vec![0.0; layout.len() * outputs.len()], bias: outputs, inputs: layout.len() };
    FrozenPredictor::new(layout, actions, Mlp::new(&[linear]), Vec::new())
}

/// What a cycle under the policy ends with.
fn run(
    policy: &mut FactoredPolicy,
    scores: &[f32],
    engine_limit: usize,
    context_length: usize,
) -> (usize, usize) {
    policy.begin_cycle();
    drafted_and_verified(policy, scores, engine_limit, context_length)
}

/// What a cycle that has begun ends with.
fn drafted_and_verified(
    policy: &mut FactoredPolicy,
    scores: &[f32],
    engine_limit: usize,
    context_length: usize,
) -> (usize, usize) {
    let summary = |draft_depth: usize| {
        let scores = &scores[..3 + draft_depth * 9];
        CycleSummary { scores, beam_width: 3, frontier: 3, draft_depth, context_length }
    };
    let mut depth = 0;
    while depth < engine_limit && policy.continue_drafting(&summary(depth)) {
        depth += 1;
    }
    (depth, policy.verification_size(&summary(depth)))
}

/// A rule without a margin.
fn worth(tokens_per_second: f64) -> FactoredRule {
    FactoredRule { tokens_per_second, margin: 0.0 }
}

fn scores() -> Vec<f32> {
    (0..3 + 6 * 9).map(|index| -0.13 * index as f32).collect()
}

/// The value of every ending from the root, straight from the definition.
fn values(
    actions: &FactoredActions,
    expected: &[f32],
    table: &LatencyTable,
    lambda: f64,
    context: usize,
) -> Vec<((usize, usize), f64)> {
    let model = table.model();
    let stops: Vec<usize> = actions.stops().collect();
    let endings = stops.iter().flat_map(|&depth| actions.size.sizes.iter().map(move |&size| (depth, size)));
    endings
        .zip(expected)
        .map(|((depth, size), &expected)| {
            let asked = (0..=depth).filter(|&depth| actions.depth.rule_at(depth) == DepthRule::Ask).count();
            let verified = size.min(3 + 9 * depth);
            let ms = model.cycle_ms(depth, verified, context, 1)
                + asked as f64 * table.decision.depth_us / 1e3
                + table.decision.size_us / 1e3;
            ((depth, size), 1.0 + f64::from(expected) - lambda * ms / 1e3)
        })
        .collect()
}

proptest! {
    #[test]
    fn with_a_certain_prediction_the_ending_is_the_best_of_all(
        outputs in prop::collection::vec(-4.0f32..1.0, 21),
        min_depth in 0usize..3,
        decide_every in 1usize..3,
        level_ms in 0.1f64..6.0,
        candidate_ms in 0.0f64..1.0,
        lambda in 5.0f64..300.0,
        context in 0usize..600,
    ) {
        let depth = DepthActions { min_depth, max_depth: 6, decide_every };
        let actions = FactoredActions { depth, size: SizeActions { sizes: vec![2, 5, 9] } };
        let outputs = outputs[..actions.stops().count() * 3].to_vec();
        let table = latency_table(level_ms, candidate_ms);
        let predictor = constant_predictor(actions.clone(), outputs.clone());
        let mut policy = FactoredPolicy::new(&predictor, &table, worth(lambda));
        let values = values(&actions, &outputs, &table, lambda, context);
        let best = values.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        let found = run(&mut policy, &scores(), 12, context);
        let value = values.iter().find(|(ending, _)| *ending == found);
        let (_, value) = value.expect("one of the endings");
        prop_assert!(*value >= best - 1e-9, "{:?} is worth {}, the best {}", found, value, best);
    }
}

/// Each level adds half a token, each larger size a tenth: `[5 stops][3 sizes]`.
fn half_a_token_per_level() -> Vec<f32> {
    (0..15).map(|index| 0.5 * (index / 3 + 1) as f32 + 0.1 * (index % 3) as f32).collect()
}

#[test]
fn a_deeper_ending_must_be_better_by_the_margin() {
    let predictor = constant_predictor(factored_actions(), half_a_token_per_level());
    // A level costs 0.3 tokens at this lambda: each one more is worth 0.2.
    let decide = |margin| {
        let rule = FactoredRule { tokens_per_second: 100.0, margin };
        run(&mut FactoredPolicy::new(&predictor, &latency_table(3.0, 0.01), rule), &scores(), 12, 50).0
    };
    assert_eq!((decide(0.0), decide(0.3)), (4, 3));
    assert_eq!(decide(1.0), 0, "nothing ahead is that much better");
}

#[test]
fn another_table_is_another_decision() {
    let predictor = constant_predictor(factored_actions(), half_a_token_per_level());
    let decide = |level_ms, candidate_ms| {
        let table = latency_table(level_ms, candidate_ms);
        run(&mut FactoredPolicy::new(&predictor, &table, worth(100.0)), &scores(), 12, 50)
    };
    assert_eq!(decide(0.5, 0.01), (4, 9), "drafting and verifying cost next to nothing");
    assert_eq!(decide(50.0, 0.01), (0, 9), "a level costs five tokens");
    assert_eq!(decide(0.5, 3.0), (4, 2), "a candidate costs a third of a token");
    assert_eq!(decide(50.0, 3.0), (0, 2));
}

#[test]
fn an_engine_of_less_depth_gets_a_size_for_the_tree_it_has() {
    let mut policy = FactoredPolicy::new(&predictor(), &latency_table(0.1, 0.01), worth(10.0));
    let (depth, size) = run(&mut policy, &scores(), 2, 100);
    assert!(depth <= 2 && [2, 5, 9].contains(&size));
    let deep = FactoredActions {
        depth: DepthActions { min_depth: 3, ..factored_actions().depth },
        ..factored_actions()
    };
    let predictor = constant_predictor(deep, vec![1.0, 2.0, 3.0, 1.1, 2.1, 3.1]);
    let mut policy = FactoredPolicy::new(&predictor, &latency_table(0.1, 0.01), worth(10.0));
    assert_eq!(run(&mut policy, &scores(), 1, 100), (1, 9));
}

#[test]
fn what_was_decided_in_one_cycle_is_not_used_in_the_next() {
    // Every output follows the best candidate's probability, the more so the larger its size.
    let layout = ObservationLayout::compact(PolicyKind::Depth, 3, 4);
    let width = layout.len();
    let weight = (0..15 * width)
        .map(|index| if index % width == 0 { 3.0 * (index / width % 3 + 1) as f32 } else { 0.0 });
    let linear = Linear { weight: weight.collect(), bias: vec![0.0; 15], inputs: width };
    let predictor = FrozenPredictor::new(layout, factored_actions(), Mlp::new(&[linear]), Vec::new());
    let mut policy = FactoredPolicy::new(&predictor, &latency_table(500.0, 2.0), worth(200.0));
    let (sure, unsure) = (vec![-0.01; 3], vec![-7.0; 3]);
    let summary =
        |scores| CycleSummary { scores, beam_width: 3, frontier: 3, draft_depth: 0, context_length: 50 };
    assert!(!policy.continue_drafting(&summary(&sure)));
    assert_eq!(policy.clone().verification_size(&summary(&sure)), 9);
    policy.begin_cycle();
    assert_eq!(policy.verification_size(&summary(&unsure)), 2);
}

/// Expected tokens that are accepted of a chain whose tokens are right with such log-odds, if those
/// before them are.
fn accepted(log_odds: &[f32]) -> f32 {
    let right = log_odds.iter().map(|odds| odds.exp() / (1.0 + odds.exp()));
    right
        .scan(1.0, |survives, right| {
            *survives *= right;
            Some(*survives)
        })
        .sum()
}

proptest! {
    #[test]
    fn a_source_is_what_its_predictions_are_worth(
        of_chains in prop::collection::vec(0.0f32..9.0, 3),
        log_odds in prop::option::of(prop::collection::vec(-3.0f32..3.0, 8)),
        of_trees in prop::collection::vec(0.0f32..4.0, 15),
        of_merged in prop::option::of(prop::collection::vec(0.0f32..9.0, 15)),
        level_ms in 0.1f64..6.0,
        candidate_ms in 0.0f64..1.0,
        lambda in 5.0f64..300.0,
        margins in prop::array::uniform2(-1.0f64..1.0),
        caution in 0.0f64..1.0,
        matches in 0usize..4,
        plain in any::<bool>(),
    ) {
        let trees = factored_actions();
        let chains = if plain { vec![0, 4, 8] } else { vec![2, 4, 8] };
        let merged = of_merged.as_ref().map(|_| Merged { chain: 6, calibration: Calibration::default() });
        let actions = SourceActions { chains: chains.clone(), merged };
        // Told place by place, or (before version 7) chain by chain.
        let places = log_odds.as_ref().map_or(0, Vec::len);
        let of_copies = log_odds.clone().unwrap_or(of_chains.clone());
        let of_chains: Vec<f32> = match &log_odds {
            None => of_chains,
            Some(log_odds) => {
                let less: Vec<f32> = log_odds.iter().map(|odds| odds - caution as f32).collect();
                chains.iter().map(|&chain| accepted(&less[..chain])).collect()
            }
        };
        let outcomes = SourceOutcomes { source: actions, trees: trees.clone(), places };
        let layout = ObservationLayout::sequence_with_agreement(3, 4);
        let bias = [of_copies, of_trees.clone(), of_merged.clone().unwrap_or_default()].concat();
        let linear = Linear { weight: vec![0.0; layout.len() * bias.len()], bias, inputs: layout.len() };
        let predictor = FrozenSourcePredictor::new(layout, outcomes, Mlp::new(&[linear]), Vec::new());
        let table = latency_table(level_ms, candidate_ms);
        let policy = FactoredPolicy::new(&constant_predictor(trees.clone(), vec![0.0; 15]), &table, worth(lambda));
        prop_assert!(!policy.chooses_source());
        let [margin, merged_margin] = margins;
        let mut policy = policy.with_source(&FactoredSource { predictor, margin, merged_margin, caution, tokens: None });
        let (model, context) = (table.model(), 100);
        let summary = SourceSummary { context_length: context, match_length: matches, ..SourceSummary::default() };
        policy.begin_cycle();
        let found = policy.source(&summary);
        if matches == 0 && !plain {
            prop_assert_eq!(found, DraftSource::Tree);
            return Ok(());
        }
        // Where nothing matches, a chain is a step of plain decoding.
        let value = |(&chain, &expected): (&usize, &f32)| {
            let verified = if matches > 0 { chain } else { 0 };
            let expected = if verified > 0 { f64::from(expected) } else { 0.0 };
            let value = 1.0 + expected - lambda * model.verify_ms(verified, context) / 1e3 - margin;
            (DraftSource::Copy { chain }, None, value)
        };
        let mut ways: Vec<_> = chains.iter().zip(&of_chains).map(value).collect();
        // A decision about the size takes its time in every tree; the source's rule leaves it out.
        let of_trees = self::values(&trees, &of_trees, &table, lambda, context);
        let best_tree = of_trees.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max)
            + lambda * table.decision.size_us / 1e6;
        ways.push((DraftSource::Tree, None, best_tree));
        for (&(depth, size), expected) in
            of_trees.iter().map(|(ending, _)| ending).zip(of_merged.iter().flatten())
        {
            // Its depth and size are not decided again, and there is room for the chain.
            let verified = size.min(3 + 9 * depth + 6);
            let ms = model.root_ms(1, context)
                + model.levels_ms(0..depth, 3, context)
                + model.verify_ms(verified, context);
            let value = 1.0 + f64::from(*expected) - lambda * ms / 1e3 - merged_margin;
            if matches > 0 {
                ways.push((DraftSource::Merged { chain: 6 }, Some((depth, size)), value));
            }
        }
        let worth = |source| {
            let of_source = ways.iter().filter(|(way, _, _)| *way == source);
            of_source.map(|(_, _, value)| *value).fold(f64::MIN, f64::max)
        };
        let best = ways.iter().map(|(_, _, value)| *value).fold(f64::MIN, f64::max);
        prop_assert!(worth(found) > best - 1e-4, "{:?} of {:?}", found, ways);
        if let DraftSource::Merged { .. } = found {
            let drafted = drafted_and_verified(&mut policy, &scores(), 6, context);
            let plans = ways.iter().filter(|(_, _, value)| *value > best - 1e-4);
            prop_assert!(plans.into_iter().any(|(_, plan, _)| *plan == Some(drafted)), "{:?}", drafted);
        }
        // Asked again, whatever was chosen: a tree or a merged one, as they were worth before.
        let again = [None, Some(6)].map(|chain| policy.merge_with(chain, Agreement::First));
        let [tree, merged] = [DraftSource::Tree, DraftSource::Merged { chain: 6 }].map(worth);
        if of_merged.is_none() {
            prop_assert_eq!(again, [None, Some(6)], "nothing is known that could change it");
        } else if (merged - tree).abs() > 1e-4 {
            prop_assert_eq!(again, [Some(6).filter(|_| merged > tree); 2]);
        }
    }
}

#[test]
fn what_the_draft_model_thinks_of_a_copy_decides_how_deep_a_merged_tree_is() {
    let trees = factored_actions();
    let merged = Some(Merged { chain: 6, calibration: Calibration::default() });
    let source = SourceActions { chains: vec![4], merged };
    let outcomes = SourceOutcomes { source, trees: trees.clone(), places: 0 };
    let layout = ObservationLayout::sequence_with_agreement(3, 4);
    // Of merged trees, the first (no level) accepts 9 where the head agrees, the last (all levels)
    // where it does not.
    let (inputs, outputs) = (layout.len(), 1 + 2 * 15);
    let mut weight = vec![0.0; inputs * outputs];
    let agreement = inputs - Agreement::ALL.len();
    weight[(1 + 15) * inputs + agreement + Agreement::First as usize] = 9.0;
    weight[(1 + 15 + 14) * inputs + agreement + Agreement::Absent as usize] = 9.0;
    let linear = Linear { weight, bias: vec![0.0; outputs], inputs };
    let predictor = FrozenSourcePredictor::new(layout, outcomes, Mlp::new(&[linear]), Vec::new());
    let table = latency_table(1.0, 0.1);
    let source = FactoredSource { predictor, margin: 0.0, merged_margin: 0.0, caution: 0.0, tokens: None };
    let policy = FactoredPolicy::new(&constant_predictor(trees.clone(), vec![0.0; 15]), &table, worth(100.0));
    let summary = SourceSummary { context_length: 100, match_length: 3, ..SourceSummary::default() };
    let drafted = |agreement| {
        let mut policy = policy.clone().with_source(&source);
        policy.begin_cycle();
        policy.source(&summary);
        let chain = policy.merge_with(None, agreement);
        chain.map(|_| drafted_and_verified(&mut policy, &scores(), 6, 100))
    };
    let (stops, sizes) = (trees.stops().collect::<Vec<_>>(), &trees.size.sizes);
    assert_eq!(drafted(Agreement::First), Some((stops[0], sizes[0])));
    assert_eq!(drafted(Agreement::Absent), Some((stops[4], sizes[2])));

    // A network that does not see it is not asked again.
    let layout = ObservationLayout::sequence(3, 4);
    let bias = vec![1.0; outputs];
    let linear = Linear { weight: vec![0.0; layout.len() * outputs], bias, inputs: layout.len() };
    let outcomes = source.predictor.actions().clone();
    let predictor = FrozenSourcePredictor::new(layout, outcomes, Mlp::new(&[linear]), Vec::new());
    let mut policy = policy.with_source(&FactoredSource { predictor, ..source });
    policy.source(&summary);
    assert_eq!([None, Some(5)].map(|chain| policy.merge_with(chain, Agreement::First)), [None, Some(5)]);
}

#[test]
fn a_token_that_was_wrong_in_recordings_is_not_copied() {
    let trees = factored_actions();
    let outcomes = SourceOutcomes {
        source: SourceActions { chains: vec![1], merged: None },
        trees: trees.clone(),
        places: 1,
    };
    // Certain where the share is 1, impossible where it is 0; trees accept nothing.
    let layout = ObservationLayout::sequence_with_tokens(3, 4);
    let (inputs, outputs) = (layout.len(), 1 + 15);
    let mut weight = vec![0.0; inputs * outputs];
    weight[inputs - 2] = 40.0;
    let mut bias = vec![0.0; outputs];
    bias[0] = -20.0;
    let linear = Linear { weight, bias, inputs };
    let predictor = FrozenSourcePredictor::new(layout, outcomes, Mlp::new(&[linear]), Vec::new());
    let mut tokens = TokenRecord::default();
    for _ in 0..100 {
        tokens.observe(1, 5, true);
        tokens.observe(1, 6, false);
    }
    let source = FactoredSource {
        predictor,
        margin: 0.5,
        merged_margin: 0.0,
        caution: 0.0,
        tokens: Some(Arc::new(tokens)),
    };
    let table = latency_table(0.0, 0.0);
    let policy = FactoredPolicy::new(&constant_predictor(trees, vec![0.0; 15]), &table, worth(1.0));
    let mut policy = policy.with_source(&source);
    let mut chosen = |copied| {
        policy.begin_cycle();
        policy.source(&SourceSummary { match_length: 1, root: 1, copied, ..SourceSummary::default() })
    };
    let copies = [Some(5), Some(6)].map(&mut chosen);
    assert_eq!(copies, [DraftSource::Copy { chain: 1 }, DraftSource::Tree]);
}
