//! A program that runs its own models and asks a [`Sequence`] decides as the engine does.

use std::collections::BTreeSet;

use ltd_cycle::{DraftTree, Learned, Sequence};
use ltd_policy::{
    Actions, Calibration, Choice, DepthActions, DraftSource, FrozenPolicy, Linear, Merged, Mlp,
    ObservationLayout, PolicyKind, SizeActions, SourceActions, SourceChoice,
};

use crate::fixtures::{load, tiny_configs};

const DEPTH_CAP: usize = 6;
const SIZES: [usize; 4] = [1, 4, 12, 40];

/// Numbers that look random, from -1 to 1.
fn numbers(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(97);
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A policy that knows nothing, but decides now this way and now that.
fn policy(layout: ObservationLayout, actions: Actions, outputs: usize, seed: u32) -> FrozenPolicy {
    let mut number = numbers(seed);
    let inputs = layout.len();
    let weight = (0..inputs * outputs).map(|_| number()).collect();
    let mlp = Mlp::new(&[Linear { weight, bias: vec![0.0; outputs], inputs }]);
    FrozenPolicy::new(layout, actions, mlp, Vec::new())
}

fn controller(beam_width: usize, seed: u32) -> Learned {
    let layout = |kind| ObservationLayout::compact(kind, beam_width, DEPTH_CAP);
    let depth = Actions::Depth(DepthActions { max_depth: DEPTH_CAP, ..DepthActions::default() });
    let size = Actions::Size(SizeActions { sizes: SIZES.to_vec() });
    let merged = Some(Merged { chain: 5, calibration: Calibration::default() });
    let source = SourceActions { chains: vec![0, 2, 8], merged };
    let outputs = source.count();
    let sequence = ObservationLayout::sequence(beam_width, DEPTH_CAP);
    Learned::new(
        &Choice::Learned(policy(layout(PolicyKind::Depth), depth, 2, seed)),
        &Choice::Learned(policy(layout(PolicyKind::Size), size, SIZES.len(), seed + 1)),
        &SourceChoice::Learned(policy(sequence, Actions::Source(source), outputs, seed + 2)),
    )
    .expect("policies of the right kinds")
}

/// The log-prob with which a child of this score has its score.
fn log_prob(score: f32, parent: f32) -> f32 {
    let about = score - parent;
    let ulps = (-8..=8i32).map(|ulps| f32::from_bits(about.to_bits().wrapping_add_signed(ulps)));
    let mut exact = ulps.filter(|near| parent + near == score);
    if about == 0.0 { 0.0 } else { exact.next().expect("the draft had one") }
}

/// Log-probs and tokens of each level, of the nodes that were expanded.
fn levels(tree: &DraftTree) -> Vec<(Vec<f32>, Vec<u32>)> {
    let width = tree.beam_width();
    let mut levels = vec![(tree.scores()[..width].to_vec(), tree.tokens()[..width].to_vec())];
    for level in 0..tree.depth() {
        let groups = 1 + level * width..1 + (level + 1) * width;
        let (mut log_probs, mut tokens) = (Vec::new(), Vec::new());
        for group in groups.filter(|group| tree.group_parents()[*group] != usize::MAX) {
            let parent = tree.parent(group * width).expect("no child of the root");
            for child in group * width..(group + 1) * width {
                log_probs.push(log_prob(tree.scores()[child], tree.scores()[parent]));
                tokens.push(tree.tokens()[child]);
            }
        }
        levels.push((log_probs, tokens));
    }
    levels
}

#[test]
fn a_sequence_decides_as_the_engine_does() {
    let (mut sources, mut depths, mut sizes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (pair, config) in tiny_configs() {
        let engine = load(&config);
        for seed in 0..12 {
            let mut learned = controller(engine.beam_width(), 3 * seed);
            // What repeats can be copied.
            let prompt: Vec<u32> = [40, 90, 120, 40, 90, 7, 40, 90, 120].repeat(1 + seed as usize % 3);
            let mut session = engine.prefill(&prompt, None).expect("prefill");
            let shape = [engine.beam_width(), DEPTH_CAP];
            let mut sequence = Sequence::steered_by(learned.clone(), shape, &prompt, session.root());
            for cycle in 0..12 {
                let name = format!("{pair}, seed {seed}, cycle {cycle}");
                let (outcome, verified) = engine.run_cycle_tree(&mut session, &mut learned).expect("a cycle");
                let source = sequence.begin();
                assert_eq!(source == DraftSource::Tree, outcome.source == DraftSource::Tree, "{name}");
                if let Some(tree) = &verified.tree {
                    for (level, (log_probs, tokens)) in levels(tree).into_iter().enumerate() {
                        sequence.push_level(&log_probs, &tokens).expect("a level");
                        let goes_on = sequence.continue_drafting().expect("a tree");
                        assert_eq!(goes_on, level < tree.depth(), "{name}, level {level}");
                    }
                    let growing = sequence.growing().expect("a tree");
                    assert_eq!(growing.tree(), tree, "{name}");
                    let size = sequence.verification_size().expect("a tree");
                    assert_eq!(size, outcome.requested_size, "{name}");
                    depths.insert(tree.depth());
                    sizes.insert(size);
                }
                let verification = sequence.verification(usize::MAX).expect("a tree");
                assert_eq!(verification, &verified.verification, "{name}");
                sequence.commit(&outcome.accepted_ids[1..], outcome.next_token);
                let before = (session.context_length(), session.root());
                assert_eq!((sequence.context_length(), sequence.root()), before, "{name}");
                sources.insert(match outcome.source {
                    DraftSource::Tree => 0,
                    DraftSource::Copy { chain: 0 } => 1,
                    DraftSource::Copy { .. } => 2,
                    DraftSource::Merged { .. } => 3,
                });
            }
        }
    }
    let seen = (sources.len(), depths.len() > 2, sizes.len() > 2);
    assert_eq!(seen, (4, true, true), "{sources:?}, {depths:?}, {sizes:?}: too few to tell");
}
