//! The draft tree and what is taken from it for verification: plain host data.

use crate::candidates::{ABSENT, Candidates, Chain, best};
use crate::contention::Contention;

/// Deepest draft the method uses (design: `D <= 12`).
pub const MAX_DEPTH: usize = 12;

/// Candidates proposed in one cycle, level after level. Candidate `i` belongs to group `i / W`: the
/// `W` children of one parent, best first. The first group hangs below the root; each later level
/// has `W` groups, one per frontier node, in frontier order. Where the frontier is smaller, the
/// last groups have no candidates: their scores are minus infinity.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftTree {
    beam_width: usize,
    contention: Contention,
    scores: Vec<f32>,
    tokens: Vec<u32>,
    /// Per group, 0 for the root, else 1 + the flat index of the parent candidate; [`ABSENT`] for
    /// one without.
    parents: Vec<usize>,
    frontier: Vec<usize>,
    depth: usize,
}

/// The candidates chosen for verification, with the root in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationTree {
    /// Flat indices of the chosen candidates in the draft tree, ascending. Row `r` of the
    /// verification is candidate `r - 1` of these; the rows after them were copied.
    pub selected: Vec<usize>,
    /// Tokens of all rows, root first.
    pub tokens: Vec<u32>,
    /// Row of each chosen candidate's parent (the root is row 0).
    pub parent_rows: Vec<usize>,
    /// Depth of each row in the tree, root 0: its position is the context length plus this.
    pub depths: Vec<usize>,
    /// Rows of the chain that was copied, one below another; candidates of the tree may be among
    /// them.
    pub chain_rows: Vec<usize>,
}

impl DraftTree {
    /// A tree with its first level: the `W` best continuations of the root, best first.
    pub fn new(log_probs: &[f32], tokens: Vec<u32>) -> Self {
        Self::within(log_probs, tokens, usize::MAX)
    }

    /// [`DraftTree::new`], of which at most `size_limit` candidates will be verified: what cannot
    /// be among them any more is not expanded, and the best `size_limit` are the same as without
    /// the limit.
    pub fn within(log_probs: &[f32], tokens: Vec<u32>, size_limit: usize) -> Self {
        let beam_width = tokens.len();
        let scores: Vec<f32> = log_probs.iter().map(|&log_prob| at_most_zero(log_prob)).collect();
        let mut contention = Contention::new(beam_width, size_limit);
        let expanded = contention.add_level(&scores);
        Self {
            beam_width,
            contention,
            scores,
            tokens,
            parents: vec![0],
            frontier: (0..expanded).collect(),
            depth: 0,
        }
    }

    /// Adds a level: the `W` best continuations of each frontier node (`[frontier, W]`, row-major),
    /// of which the best `W` by score become the next frontier, as far as they can be verified.
    pub fn push_level(&mut self, log_probs: &[f32], tokens: &[u32]) {
        let start = self.scores.len();
        let width = self.beam_width;
        for (&parent, row) in self.frontier.iter().zip(log_probs.chunks_exact(width)) {
            let parent_score = self.scores[parent];
            self.scores.extend(row.iter().map(|&log_prob| parent_score + at_most_zero(log_prob)));
            self.parents.push(parent + 1);
        }
        self.tokens.extend_from_slice(tokens);
        self.scores.resize(start + width * width, f32::NEG_INFINITY);
        self.tokens.resize(start + width * width, 0);
        self.parents.resize(self.scores.len() / width, ABSENT);
        let expanded = self.contention.add_level(&self.scores[start..]);
        self.frontier = best(&self.scores, start, expanded);
        self.depth += 1;
    }

    /// Candidates per level that are expanded at most, `W`.
    pub fn beam_width(&self) -> usize {
        self.beam_width
    }

    /// Draft forwards after the root expansion.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Cumulative log-probs of all candidates.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Target-vocabulary tokens of all candidates.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Parent of each group of `W` candidates: 0 for the root, else 1 + the parent's flat index;
    /// `usize::MAX` for a group without candidates.
    pub fn group_parents(&self) -> &[usize] {
        &self.parents
    }

    /// Flat indices of the candidates that the next level would expand, best first. With none,
    /// nothing that could be drafted would be verified.
    pub fn frontier(&self) -> &[usize] {
        &self.frontier
    }

    /// Expands no more than the best `rows` candidates in the next level.
    pub(crate) fn narrow(&mut self, rows: usize) {
        self.frontier.truncate(rows);
    }

    /// Flat index of a candidate's parent, `None` for the root.
    pub fn parent(&self, candidate: usize) -> Option<usize> {
        self.parents[candidate / self.beam_width].checked_sub(1)
    }

    /// The `size` best candidates by score (all, if there are fewer; no more than the tree's
    /// limit). Closed under parents: a parent scores at least as much as its child and, at equal
    /// scores, stands before it.
    pub fn select(&self, root: u32, size: usize) -> VerificationTree {
        let mut selected = best(&self.scores, 0, size.min(self.contention.limit()));
        selected.retain(|candidate| self.parents[candidate / self.beam_width] != ABSENT);
        selected.sort_unstable();
        self.candidates().verification(root, selected, &[], &[])
    }

    /// The `size` most probable of the candidates and of a chain's tokens; no more than the tree's
    /// limit.
    pub fn merge(&self, root: u32, size: usize, chain: &Chain) -> VerificationTree {
        self.candidates().merge(root, size.min(self.contention.limit()), chain)
    }

    /// All candidates.
    pub fn candidates(&self) -> Candidates<'_> {
        Candidates {
            beam_width: self.beam_width,
            scores: &self.scores,
            tokens: &self.tokens,
            group_parents: &self.parents,
        }
    }
}

/// Rounding can make the log-prob of a certain token positive, and a score must not exceed its
/// parent's. Adding zero turns `-0.0` into `0.0`, which a total order would tell apart.
fn at_most_zero(log_prob: f32) -> f32 {
    log_prob.min(0.0) + 0.0
}

impl VerificationTree {
    /// A chain of tokens that follow the root one after another.
    pub fn chain(root: u32, tokens: &[u32]) -> Self {
        Self {
            selected: Vec::new(),
            tokens: [&[root], tokens].concat(),
            parent_rows: (0..tokens.len()).collect(),
            depths: (0..=tokens.len()).collect(),
            chain_rows: (1..=tokens.len()).collect(),
        }
    }

    /// Draft tokens of an accepted path that candidates of the tree have, and that the chain has,
    /// where there is one; a token of both counts for each.
    pub fn sources(&self, accepted_rows: &[usize]) -> [usize; 2] {
        let path = &accepted_rows[1..];
        let drafted = path.partition_point(|&row| row <= self.selected.len());
        let copied = path.iter().zip(&self.chain_rows).take_while(|(row, copied)| row == copied).count();
        [drafted, copied]
    }

    /// Rows, root included.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Which rows each row sees among themselves: its ancestors and itself. Row-major, `rows *
    /// rows`.
    pub fn mask(&self) -> Vec<bool> {
        let rows = self.rows();
        let mut mask = vec![false; rows * rows];
        mask[0] = true;
        for row in 1..rows {
            let parent = self.parent_rows[row - 1];
            let (above, this) = mask.split_at_mut(row * rows);
            this[..rows].copy_from_slice(&above[parent * rows..][..rows]);
            this[row] = true;
        }
        mask
    }

    /// Follows, from the root, the children that equal the target's own choice after their parent's
    /// row, for which `target_choice` is asked: the most probable token, or one drawn from the
    /// target's distribution, which makes this recursive rejection sampling. Returns the rows of
    /// the path, root first, and the target's token after it.
    pub fn accept<E>(
        &self,
        mut target_choice: impl FnMut(usize) -> Result<u32, E>,
    ) -> Result<(Vec<usize>, u32), E> {
        let mut path = vec![0];
        let mut row = 0;
        loop {
            let choice = target_choice(row)?;
            match self.child(row, choice) {
                Some(child) => {
                    path.push(child);
                    row = child;
                }
                None => return Ok((path, choice)),
            }
        }
    }

    /// Rows, root first, along a text that goes on from the root, as far as the tree has it.
    pub fn along(&self, text: &[u32]) -> Vec<usize> {
        let mut path = vec![0];
        for &token in text {
            let Some(child) = self.child(path[path.len() - 1], token) else { break };
            path.push(child);
        }
        path
    }

    /// Row of the child with this token.
    fn child(&self, row: usize, token: u32) -> Option<usize> {
        (row + 1..self.rows())
            .find(|&child| self.parent_rows[child - 1] == row && self.tokens[child] == token)
    }
}
