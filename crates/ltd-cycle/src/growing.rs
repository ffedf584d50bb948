//! A draft tree while a draft model grows it.

use crate::DraftTree;

/// A draft tree, and what the forward of its next level needs: where each frontier node was
/// proposed, and what it sees. Rows of forwards are numbered by the caller, wherever their keys and
/// values are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct GrowingTree {
    tree: DraftTree,
    /// Per frontier node, the row of the last forward that proposed it.
    parents: Vec<usize>,
    /// Per frontier node, the rows of its ancestors, nearest last.
    ancestors: Vec<Vec<usize>>,
}

impl GrowingTree {
    /// Begins with a tree of one level, which one row has proposed.
    pub fn new(tree: DraftTree) -> Self {
        let frontier = tree.frontier().len();
        Self { tree, parents: vec![0; frontier], ancestors: vec![Vec::new(); frontier] }
    }

    /// The tree so far.
    pub fn tree(&self) -> &DraftTree {
        &self.tree
    }

    /// The tree, when no more levels are wanted.
    pub fn into_tree(self) -> DraftTree {
        self.tree
    }

    /// Tokens of the frontier nodes.
    pub fn frontier_tokens(&self) -> impl Iterator<Item = u32> {
        self.tree.frontier().iter().map(|&node| self.tree.tokens()[node])
    }

    /// For each frontier node, which row of the last forward proposed it, counted from 0.
    pub fn parents(&self) -> &[usize] {
        &self.parents
    }

    /// Rows of the tree that a frontier node sees: those of its ancestors, and its own. The rows of
    /// the frontier are `first_row` and those after it.
    pub fn seen_by(&self, node: usize, first_row: usize) -> impl Iterator<Item = usize> {
        self.ancestors[node].iter().copied().chain([first_row + node])
    }

    /// Expands no more than the best `rows` candidates, at least one, in the next level.
    pub fn narrow(&mut self, rows: usize) {
        let rows = rows.max(1);
        self.tree.narrow(rows);
        self.parents.truncate(rows);
        self.ancestors.truncate(rows);
    }

    /// Adds a level, as [`DraftTree::push_level`] does. The rows of the frontier, which proposed
    /// it, are `first_row` and those after it.
    pub fn push_level(&mut self, first_row: usize, log_probs: &[f32], tokens: &[u32]) {
        let (start, width) = (self.tree.scores().len(), self.tree.beam_width());
        self.tree.push_level(log_probs, tokens);
        self.parents = self.tree.frontier().iter().map(|node| (node - start) / width).collect();
        self.ancestors =
            self.parents.iter().map(|&parent| self.seen_by(parent, first_row).collect()).collect();
    }
}

/// A draft tree, and what the draft was like where it grew.
#[derive(Debug, Clone, PartialEq)]
pub struct GrownTree {
    /// Position of its root.
    pub root: usize,
    /// Its candidates.
    pub tree: DraftTree,
    /// Entropy, in nats, of the draft's distribution that each group of `W` candidates is the top
    /// of: after the root, then after each frontier node, level after level, `[1 + depth * W]`.
    /// Empty unless wanted.
    pub entropies: Vec<f32>,
    /// The draft's output after the root, before its last norm, `[hidden]`. Empty unless wanted.
    pub hidden: Vec<f32>,
    /// The same after the best candidate of each level that was expanded, `[depth, hidden]`. Empty
    /// unless wanted.
    pub states: Vec<f32>,
}

impl GrownTree {
    /// A tree alone.
    #[must_use]
    pub fn new(root: usize, tree: DraftTree) -> Self {
        Self { root, tree, entropies: Vec::new(), hidden: Vec::new(), states: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontier_nodes_know_the_rows_of_their_ancestors() {
        let mut growing = GrowingTree::new(DraftTree::new(&[-1.0, -2.0], vec![5, 6]));
        assert_eq!(growing.parents(), [0, 0]);
        // The second node's children are better.
        growing.push_level(7, &[-4.0, -5.0, -0.5, -0.75], &[1, 2, 3, 4]);
        assert_eq!(growing.frontier_tokens().collect::<Vec<_>>(), [3, 4]);
        let seen = |growing: &GrowingTree, first_row| {
            let nodes = 0..growing.parents().len();
            nodes.map(|node| growing.seen_by(node, first_row).collect()).collect::<Vec<Vec<usize>>>()
        };
        assert_eq!((growing.parents(), seen(&growing, 9)), (&[1, 1][..], vec![vec![8, 9], vec![8, 10]]));
        growing.narrow(1);
        growing.push_level(9, &[-0.5, -1.0], &[1, 2]);
        assert_eq!(growing.parents(), [0, 0]);
        assert_eq!(seen(&growing, 10), [[8, 9, 10], [8, 9, 11]]);
    }
}
