//! Every cycle equals the reference implementation's: features, trees, selection, acceptance,
//! output.

use ltd_engine::{Engine, EngineConfig, Session, Static, VerifiedTree, WholeBeam};

use crate::fixtures::{Golden, golden_config, load, tiny_config};

/// Scores are sums of up to 13 f32 log-probs over vocabularies of up to 8192, computed by other
/// kernels.
const SCORE_TOLERANCE: f32 = 1e-3;
/// Features reach magnitudes of 1e3 in SmolLM2's residual stream: relative to the largest entry of
/// a row.
const FEATURE_TOLERANCE: f32 = 1e-4;
/// Candidates whose scores differ by less may be ordered differently by another top-k.
const TIE: f32 = 1e-5;

fn check(golden: &Golden, config: EngineConfig) {
    let engine = load(&EngineConfig { beam_width: golden.setting("beam_width"), ..config });
    let mut controller =
        WholeBeam(Static { depth: golden.setting("draft_depth"), size: golden.setting("verification_size") });
    let prompt = golden.ids("prompt_ids");
    let mut session = engine.prefill(&prompt, None).expect("prefill");
    for cycle in 0..golden.setting("cycles") {
        check_features(golden, cycle, &engine, &mut session, &prompt);
        assert_eq!(session.context_length(), golden.indices(cycle, "prefix_len")[0], "cycle {cycle}");
        assert_eq!(session.root() as usize, golden.indices(cycle, "root_token")[0], "cycle {cycle}");
        let (outcome, verified) = engine.run_cycle_tree(&mut session, &mut controller).expect("cycle");
        if cycle < golden.setting("cycles_with_trees") {
            check_tree(golden, cycle, &verified);
        }
        assert_eq!(verified.accepted_rows, golden.indices(cycle, "accepted"), "cycle {cycle}");
        assert_eq!(outcome.acceptance_length(), verified.accepted_rows.len());
        assert_eq!(outcome.next_token as usize, golden.indices(cycle, "next_token")[0], "cycle {cycle}");
    }
    assert_eq!(session.tokens(), golden.ids("ids"));
}

fn check_features(golden: &Golden, cycle: usize, engine: &Engine, session: &mut Session, prompt: &[u32]) {
    let Some(expected) = golden.floats(cycle, "features") else { return };
    // Of a prompt's features, the session keeps only the last row.
    let (found, width) = if cycle == 0 {
        engine.target_features(prompt).expect("features")
    } else {
        session.pending_features().expect("features").expect("features")
    };
    // The first rows of a prompt, the last rows of what a cycle accepted.
    let kept = if cycle == 0 { &found[..expected.len()] } else { &found[found.len() - expected.len()..] };
    for (row, (found, expected)) in kept.chunks(width).zip(expected.chunks(width)).enumerate() {
        let scale = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / scale;
            assert!(error < FEATURE_TOLERANCE, "cycle {cycle} row {row}: {found} and {expected}");
        }
    }
}

fn check_tree(golden: &Golden, cycle: usize, verified: &VerifiedTree) {
    let expected_scores = golden.floats(cycle, "scores").expect("scores");
    let VerifiedTree { tree, verification, .. } = verified;
    let tree = tree.as_ref().expect("a cycle with a tree");
    assert_eq!(tree.scores().len(), expected_scores.len());
    for (index, (found, expected)) in tree.scores().iter().zip(expected_scores).enumerate() {
        assert!(
            (found - expected).abs() < SCORE_TOLERANCE,
            "cycle {cycle} candidate {index}: {found} {expected}"
        );
    }
    let expected_tokens = golden.indices(cycle, "tokens");
    let differing: Vec<usize> = (0..expected_tokens.len())
        .filter(|&index| tree.tokens()[index] as usize != expected_tokens[index])
        .collect();
    if differing.is_empty() {
        assert_eq!(tree.group_parents(), golden.indices(cycle, "parents"), "cycle {cycle}");
        assert_eq!(verification.selected, golden.indices(cycle, "selected"), "cycle {cycle}");
        assert_eq!(verification.parent_rows, golden.indices(cycle, "parent_rows"), "cycle {cycle}");
        assert_eq!(verification.depths, golden.indices(cycle, "tree_positions"), "cycle {cycle}");
    }
    for index in differing {
        assert!(
            is_tied(expected_scores, tree.scores(), index, tree.beam_width()),
            "cycle {cycle} candidate {index}"
        );
    }
}

/// Whether the candidate's place in its group is open: its score equals a neighbour's, or it is the
/// last of its group, where the neighbour that lost is not in the file, and both implementations
/// give that place one score.
fn is_tied(expected: &[f32], found: &[f32], index: usize, width: usize) -> bool {
    let rank = index % width;
    let near = |a: f32, b: f32| (a - b).abs() < TIE;
    (rank > 0 && near(expected[index], expected[index - 1]))
        || (rank + 1 < width && near(expected[index], expected[index + 1]))
        || (rank + 1 == width && near(expected[index], found[index]))
}

#[test]
fn default_trees_of_the_tiny_pair_equal_the_reference() {
    for name in ["tiny-default-0", "tiny-default-1", "tiny-default-2", "tiny-long-prompt"] {
        check(&Golden::read(name), tiny_config());
    }
}

#[test]
fn unusual_settings_of_the_tiny_pair_equal_the_reference() {
    for name in ["tiny-beam4", "tiny-depth0", "tiny-depth1-size5", "tiny-depth12-size240", "tiny-depth3-all"]
    {
        check(&Golden::read(name), tiny_config());
    }
}

#[test]
fn a_pair_of_full_size_equals_the_reference() {
    for name in ["smollm2-alpaca-5", "smollm2-gsm8k-0"] {
        check(&Golden::read(name), golden_config());
    }
}
