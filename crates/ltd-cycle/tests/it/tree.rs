//! Properties of tree selection, masks and positions.

use std::collections::BTreeSet;

use ltd_cycle::{DraftTree, VerificationTree};
use proptest::prelude::*;

pub(crate) const ROOT: u32 = 7;

/// A tree of random log-probs, coarse enough that equal scores are common.
pub(crate) fn trees() -> impl Strategy<Value = DraftTree> {
    (1usize..=6, 0usize..=5).prop_flat_map(|(width, depth)| {
        let level = move |count: usize| {
            prop::collection::vec((0u8..6).prop_map(|step| -0.5 * f32::from(step)), count)
        };
        (level(width), prop::collection::vec(level(width * width), depth)).prop_map(move |(first, levels)| {
            let tokens = |count: usize| (0..count as u32).collect::<Vec<_>>();
            let mut tree = DraftTree::new(&sorted(first, width), tokens(width));
            for level in levels {
                tree.push_level(&sorted(level, width), &tokens(width * width));
            }
            tree
        })
    })
}

/// Groups of `width`, each best first, as a top-k gives them.
fn sorted(mut log_probs: Vec<f32>, width: usize) -> Vec<f32> {
    for group in log_probs.chunks_mut(width) {
        group.sort_by(|a, b| b.total_cmp(a));
    }
    log_probs
}

fn ancestors(verification: &VerificationTree, mut row: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([row]);
    while row > 0 {
        row = verification.parent_rows[row - 1];
        seen.insert(row);
    }
    seen
}

proptest! {
    #[test]
    fn a_selection_is_the_best_by_score_and_closed_under_parents(tree in trees(), size in 0usize..250) {
        let selected = tree.select(ROOT, size).selected;
        prop_assert_eq!(selected.len(), size.min(tree.scores().len()));
        prop_assert!(selected.is_sorted());
        let chosen: BTreeSet<usize> = selected.iter().copied().collect();
        let worst = selected.iter().map(|&node| tree.scores()[node]).fold(f32::INFINITY, f32::min);
        for node in 0..tree.scores().len() {
            if !chosen.contains(&node) {
                prop_assert!(tree.scores()[node] <= worst);
            } else if let Some(parent) = tree.parent(node) {
                prop_assert!(chosen.contains(&parent), "node {} without its parent {}", node, parent);
            }
        }
    }

    #[test]
    fn rows_see_their_ancestors_and_themselves_and_stand_at_their_depth(tree in trees(), size in 0usize..250) {
        let verification = tree.select(ROOT, size);
        let rows = verification.rows();
        let mask = verification.mask();
        prop_assert_eq!(mask.len(), rows * rows);
        prop_assert_eq!(verification.tokens[0], ROOT);
        for row in 0..rows {
            let expected = ancestors(&verification, row);
            let seen: BTreeSet<usize> = (0..rows).filter(|column| mask[row * rows + column]).collect();
            prop_assert_eq!(verification.depths[row], expected.len() - 1);
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn the_frontier_is_the_best_of_the_last_level(tree in trees()) {
        let width = tree.beam_width();
        let level = if tree.depth() == 0 { width } else { width * width };
        let start = tree.scores().len() - level;
        let mut scores: Vec<f32> = tree.scores()[start..].to_vec();
        scores.sort_by(|a, b| b.total_cmp(a));
        let frontier: Vec<f32> = tree.frontier().iter().map(|&node| tree.scores()[node]).collect();
        prop_assert_eq!(&frontier[..], &scores[..width]);
        prop_assert!(tree.frontier().iter().all(|&node| node >= start));
    }

    #[test]
    fn acceptance_follows_the_target_to_the_first_node_that_was_not_verified(
        tree in trees(), size in 0usize..250, choices in prop::collection::vec(0u32..40, 251)
    ) {
        let verification = tree.select(ROOT, size);
        let accepted = verification.accept(|row| Ok::<_, std::convert::Infallible>(choices[row]));
        let (path, next) = accepted.expect("nothing can fail");
        prop_assert_eq!(path[0], 0);
        for pair in path.windows(2) {
            prop_assert_eq!(verification.parent_rows[pair[1] - 1], pair[0]);
            prop_assert_eq!(verification.tokens[pair[1]], choices[pair[0]]);
        }
        let last = path[path.len() - 1];
        prop_assert_eq!(next, choices[last]);
        let children = (1..verification.rows()).filter(|row| verification.parent_rows[row - 1] == last);
        for child in children {
            prop_assert_ne!(verification.tokens[child], next);
        }
    }
}

#[test]
fn a_score_above_its_parents_by_rounding_does_not_open_the_selection() {
    // exp(-0.0) and a log-prob rounded to just above zero: both count as certain.
    let mut tree = DraftTree::new(&[-0.0, -3.0], vec![0, 1]);
    tree.push_level(&[1e-7, -1.0, 0.0, -1.0], &[0, 1, 0, 1]);
    assert_eq!(tree.select(ROOT, 1).selected, vec![0]);
    assert_eq!(tree.select(ROOT, 2).selected, vec![0, 2]);
}
