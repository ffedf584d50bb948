//! One continuation with its trees.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ltd_engine::DraftTree;

/// A prompt, its greedy continuation, and the tree at every position of it where a cycle could begin.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedSequence {
    /// Number of the prompt in its file.
    pub prompt: u32,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Prompt, continuation, and what the target says beyond the end: as far as a path could reach.
    pub tokens: Vec<u32>,
    pub(super) scores_per_position: usize,
    /// `[positions, scores_per_position]`.
    pub(super) scores: Vec<f16>,
    /// Per position, where its ranks begin; one more at the end.
    pub(super) starts: Vec<usize>,
    /// Per position and depth `D`, ranks among the candidates of depth `D` of the first `D + 1` nodes of the
    /// continuation (fewer if the tree lost it).
    pub(super) ranks: Vec<u16>,
    /// Per position, nodes of the continuation in the tree.
    pub(super) path_lens: Vec<u8>,
}

/// The tree at one position of a [`TracedSequence`].
#[derive(Debug, Clone, Copy)]
pub struct TracedPosition<'s> {
    /// Tokens before the root, `L`.
    pub context_length: usize,
    scores: &'s [f16],
    ranks: &'s [u16],
    path_len: usize,
}

impl TracedSequence {
    /// A sequence without positions.
    pub fn new(prompt: u32, prompt_len: usize, tokens: Vec<u32>, scores_per_position: usize) -> Self {
        Self {
            prompt,
            prompt_len,
            tokens,
            scores_per_position,
            scores: Vec::new(),
            starts: vec![0],
            ranks: Vec::new(),
            path_lens: Vec::new(),
        }
    }

    /// Adds the tree of the next position.
    pub fn push(&mut self, tree: &DraftTree) {
        let root = self.prompt_len + self.len();
        let continuation = &self.tokens[root + 1..];
        // The token after the last node of a path must be known too.
        let path = path(tree, &continuation[..continuation.len().saturating_sub(1)]);
        let at = self.scores.len();
        self.scores.resize(at + self.scores_per_position, f16::ZERO);
        self.scores[at..].convert_from_f32_slice(tree.scores());
        self.path_lens.push(path.len() as u8);
        let (width, scores) = (tree.beam_width(), tree.scores());
        for depth in 0..=tree.depth() {
            let drafted = &scores[..width + depth * width * width];
            self.ranks.extend(path.iter().take(depth + 1).map(|&node| rank(drafted, node)));
        }
        self.starts.push(self.ranks.len());
    }

    /// Positions where a cycle could begin.
    pub fn len(&self) -> usize {
        self.path_lens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.path_lens.is_empty()
    }

    /// The tree whose root is token `prompt_len + position`.
    pub fn position(&self, position: usize) -> TracedPosition<'_> {
        TracedPosition {
            context_length: self.prompt_len + position,
            scores: &self.scores[position * self.scores_per_position..][..self.scores_per_position],
            ranks: &self.ranks[self.starts[position]..self.starts[position + 1]],
            path_len: usize::from(self.path_lens[position]),
        }
    }
}

impl TracedPosition<'_> {
    /// Draft tokens that a cycle of this depth and size would accept.
    pub fn accepted(&self, depth: usize, size: usize) -> usize {
        let first: usize = (0..depth).map(|depth| self.path_len.min(depth + 1)).sum();
        let ranks = &self.ranks[first..][..self.path_len.min(depth + 1)];
        // Ranks grow along the path: a parent stands before its children.
        ranks.partition_point(|&rank| usize::from(rank) < size)
    }

    /// Writes scores `from..scores.len()` of the tree.
    pub fn write_scores(&self, from: usize, scores: &mut [f32]) {
        let end = scores.len();
        self.scores[from..end].convert_to_f32_slice(&mut scores[from..]);
    }
}

/// Nodes of the tree along a continuation, as far as the tree has it.
fn path(tree: &DraftTree, continuation: &[u32]) -> Vec<usize> {
    let (width, tokens) = (tree.beam_width(), tree.tokens());
    let mut path = Vec::new();
    let mut parent = 0;
    for token in continuation {
        let group = tree.group_parents().iter().position(|&of| of == parent);
        let Some(start) = group.map(|group| group * width) else { break };
        let Some(child) = tokens[start..start + width].iter().position(|found| found == token) else { break };
        path.push(start + child);
        parent = start + child + 1;
    }
    path
}

/// Candidates that are chosen for verification before this one: higher scores, or equal ones that stand before it.
fn rank(scores: &[f32], node: usize) -> u16 {
    let score = scores[node];
    let before = scores[..node].iter().filter(|&&other| other >= score).count();
    let after = scores[node + 1..].iter().filter(|&&other| other > score).count();
    (before + after) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> DraftTree {
        let mut tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
        tree.push_level(&[-0.1, -2.0, -0.2, -3.0], &[1, 2, 3, 4]);
        tree
    }

    #[test]
    fn outcomes_are_those_of_a_selection() {
        // The target goes on with 8, 3, 9.
        let mut sequence = TracedSequence::new(0, 2, vec![5, 5, 6, 8, 3, 9], 6);
        sequence.push(&tree());
        let position = sequence.position(0);
        assert_eq!(position.context_length, 2);
        for depth in 0..=1 {
            let mut tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
            if depth == 1 {
                tree.push_level(&[-0.1, -2.0, -0.2, -3.0], &[1, 2, 3, 4]);
            }
            for size in 0..=6 {
                let verification = tree.select(6, size);
                let choices = |row: usize| match verification.tokens[row] {
                    6 => 8,
                    8 => 3,
                    _ => 9,
                };
                let (rows, _) = verification.accept(|row| Ok::<_, ()>(choices(row))).unwrap();
                assert_eq!(position.accepted(depth, size), rows.len() - 1, "{depth} {size}");
            }
        }
    }

    #[test]
    fn a_path_ends_where_the_continuation_is_not_known() {
        let mut sequence = TracedSequence::new(0, 2, vec![5, 5, 6, 8, 3], 6);
        sequence.push(&tree());
        // The token after 3 is unknown: a cycle that accepted it would have no next root.
        assert_eq!(sequence.position(0).accepted(1, 6), 1);
        let mut scores = [0.0; 6];
        sequence.position(0).write_scores(0, &mut scores);
        assert!((scores[4] + 1.2).abs() < 1e-3);
    }
}
