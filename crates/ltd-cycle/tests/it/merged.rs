//! Properties of verification trees that hold candidates of a draft tree and copied tokens.

use std::collections::BTreeSet;
use std::convert::Infallible;

use ltd_cycle::{Chain, DraftTree, VerificationTree};
use ltd_policy::{Agreement, Calibration};
use proptest::prelude::*;

use crate::tree::{ROOT, trees};

/// The tokens from the root to each row, the root left out.
fn paths(verification: &VerificationTree) -> Vec<Vec<u32>> {
    let mut paths: Vec<Vec<u32>> = vec![Vec::new()];
    for row in 1..verification.rows() {
        let parent = paths[verification.parent_rows[row - 1]].clone();
        paths.push([parent, vec![verification.tokens[row]]].concat());
    }
    paths
}

fn distinct(paths: &[Vec<u32>]) -> BTreeSet<Vec<u32>> {
    paths.iter().cloned().collect()
}

/// The tokens of a draft tree's candidates from the root to each.
fn drafted_paths(tree: &DraftTree) -> BTreeSet<Vec<u32>> {
    distinct(&paths(&tree.select(ROOT, usize::MAX)))
}

proptest! {
    #[test]
    fn a_merged_tree_holds_paths_of_both_and_each_once(
        tree in trees(),
        chain in prop::collection::vec(0u32..8, 0..20),
        match_length in 1usize..20,
        size in 0usize..250,
        text in prop::collection::vec(0u32..8, 30),
    ) {
        let calibration = Calibration::default();
        let verification =
            tree.merge(ROOT, size, &Chain { tokens: &chain, match_length, calibration: &calibration });
        let (paths, drafted) = (paths(&verification), drafted_paths(&tree));
        let found = distinct(&paths);
        prop_assert_eq!(found.len(), paths.len(), "a path is there twice: {:?}", paths);
        let all = drafted.iter().cloned().chain((0..=chain.len()).map(|end| chain[..end].to_vec()));
        let all: BTreeSet<Vec<u32>> = all.collect();
        prop_assert_eq!(paths.len(), (size + 1).min(all.len()));
        prop_assert!(found.is_subset(&all));
        for (row, path) in paths.iter().enumerate() {
            prop_assert_eq!(verification.depths[row], path.len());
            prop_assert_eq!(row <= verification.selected.len(), row == 0 || drafted.contains(path));
        }
        for (end, &row) in (1..).zip(&verification.chain_rows) {
            prop_assert_eq!(&paths[row][..], &chain[..end]);
        }
        let next = verification.chain_rows.len() + 1;
        prop_assert!(next > chain.len() || !found.contains(&chain[..next]));

        // The target says `text`: it is accepted as far as there is a path.
        let accepted = verification.accept(|row| Ok::<_, Infallible>(text[verification.depths[row]]));
        let (rows, _) = accepted.expect("nothing can fail");
        let longest = (0..text.len()).take_while(|&end| found.contains(&text[..=end])).count();
        prop_assert_eq!(rows.len() - 1, longest);
        let ranks = tree.candidates().merged_ranks(&text, &Chain { tokens: &chain, match_length, calibration: &calibration });
        prop_assert!(ranks.is_sorted());
        prop_assert_eq!(ranks.partition_point(|&rank| rank < size), longest);
        let [of_tree, of_chain] = verification.sources(&rows);
        let along = |known: &dyn Fn(&[u32]) -> bool| (1..=longest).take_while(|&end| known(&text[..end])).count();
        prop_assert_eq!(of_tree, along(&|path| drafted.contains(path)));
        prop_assert_eq!(of_chain, along(&|path| chain.starts_with(path)));
    }

    #[test]
    fn merged_with_nothing_a_tree_is_its_selection(tree in trees(), size in 0usize..250) {
        // Deeper scores are all the same to a calibration.
        prop_assume!(tree.scores().iter().all(|&score| score > -12.0));
        let calibration = Calibration::default();
        let merged = tree.merge(ROOT, size, &Chain { tokens: &[], match_length: 0, calibration: &calibration });
        prop_assert_eq!(merged, tree.select(ROOT, size));
    }
}

#[test]
fn the_budget_goes_to_what_is_most_probable() {
    // After the root: 5 with a half, 6 with a quarter; after 5: 7 and 8 with a half each.
    let half = 0.5f32.ln();
    let mut tree = DraftTree::new(&[half, 2.0 * half], vec![5, 6]);
    tree.push_level(&[half, half, half, half], &[7, 8, 7, 8]);
    // A chain is right with three quarters, then with two thirds of that.
    let mut calibration = Calibration::default();
    let right = |shares: [f32; 3], agreement: Agreement, calibration: &mut Calibration| {
        calibration.copied[agreement as usize][1][..3].copy_from_slice(&shares);
    };
    for agreement in Agreement::ALL {
        right([0.75, 0.5, 0.25], agreement, &mut calibration);
    }
    let merge = |tokens: &[u32], size| {
        let verification =
            tree.merge(ROOT, size, &Chain { tokens, match_length: 2, calibration: &calibration });
        (verification.tokens[1..].to_vec(), verification.chain_rows)
    };
    // Of nothing that the tree has: 0.75, 0.5, 0.25 for the chain, a quarter of theirs for the
    // others.
    assert_eq!(merge(&[9, 9, 9], 3), (vec![9, 9, 9], vec![1, 2, 3]));
    assert_eq!(merge(&[9, 9, 9], 4), (vec![5, 9, 9, 9], vec![2, 3, 4]));
    // 5 is right with 1 - 0.5 * 0.25; 9 after it with two thirds of that; 7 and 8 with a half of
    // the last third.
    assert_eq!(merge(&[5, 9], 2), (vec![5, 9], vec![1, 2]));
    assert_eq!(merge(&[5, 9], 3), (vec![5, 7, 9], vec![1, 3]));
    // 8 after 5 is of both: 1 - 0.5 / 3 of it.
    assert_eq!(merge(&[5, 8], 2), (vec![5, 8], vec![1, 2]));
    assert_eq!(merge(&[5, 8], 3).0, [5, 7, 8]);

    // What the draft model thinks of the first token decides how far a chain is trusted.
    right([0.25, 0.0, 0.0], Agreement::Absent, &mut calibration);
    let merge = |tokens: &[u32], size| {
        tree.merge(ROOT, size, &Chain { tokens, match_length: 2, calibration: &calibration }).tokens
    };
    assert_eq!(merge(&[9, 9, 9], 2), [ROOT, 5, 9], "0.375, 0.25");
    assert_eq!(merge(&[6, 9, 9], 3), [ROOT, 6, 9, 9], "0.8125, 0.54, 0.27");
}

#[test]
fn a_tree_keeps_its_limit() {
    let tree = DraftTree::within(&[-0.5, -1.0], vec![5, 6], 2);
    let calibration = Calibration::default();
    let chain = Chain { tokens: &[5, 6, 7], match_length: 16, calibration: &calibration };
    assert_eq!(tree.merge(ROOT, 10, &chain).tokens, [ROOT, 5, 6]);
    assert_eq!(tree.merge(ROOT, 10, &chain).chain_rows, [1, 2]);
}
