//! One continuation with its trees.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ltd_cycle::GrownTree;
use ltd_policy::tree_candidates;

use super::{Columns, TraceHeader};

/// A sequence without its trees: what it says, and what cycles at its positions would accept. It
/// takes a few per cent of the room that the trees take.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Number of the prompt in its file; also that of the sequence in the random numbers of the
    /// seed.
    pub prompt: u32,
    /// Seed of the continuation's random numbers; 0 if it is greedy.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Prompt, continuation, and what the target says beyond the end: as far as a path could reach.
    pub tokens: Vec<u32>,
    /// Tokens from one recorded position to the next.
    pub(super) every: usize,
    /// Per position, where its ranks begin; one more at the end.
    pub(super) starts: Vec<u32>,
    /// Per position and depth `D`, ranks among the candidates of depth `D` of the first `D + 1`
    /// nodes of the continuation (fewer if the tree lost it).
    pub(super) ranks: Vec<u16>,
    /// Per position, nodes of the continuation in the tree.
    pub(super) path_lens: Vec<u8>,
}

/// A prompt, a continuation, and the trees at the positions of it where a cycle could begin: at all
/// of them, or at every so-manieth. It has the fields and methods of its [`Outline`].
#[derive(Debug, Clone, PartialEq)]
pub struct TracedSequence {
    pub(super) outline: Arc<Outline>,
    pub(super) columns: Columns,
    /// `[positions, columns.scores]`.
    pub(super) scores: Vec<f16>,
    /// `[positions, columns.entropies]`.
    pub(super) entropies: Vec<f16>,
    /// `[positions, columns.hidden]`.
    pub(super) hidden: Vec<f16>,
    /// `[positions, columns.states]`.
    pub(super) states: Vec<f16>,
    /// `[positions, columns.tokens]`.
    pub(super) candidate_tokens: Vec<u32>,
    /// Per position, what each group of candidates follows: 0 for the root, else 1 + the flat index
    /// of the parent; [`ABSENT`] for a group of none. `[positions, columns.parents]`.
    pub(super) parents: Vec<u16>,
}

impl Deref for TracedSequence {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        &self.outline
    }
}

impl DerefMut for TracedSequence {
    fn deref_mut(&mut self) -> &mut Outline {
        Arc::make_mut(&mut self.outline)
    }
}

/// The tree at one position of a [`TracedSequence`].
#[derive(Debug, Clone, Copy)]
pub struct TracedPosition<'s> {
    /// Tokens before the root, `L`.
    pub context_length: usize,
    /// Entropies of the draft's distributions, in nats, `[1 + D * W]`: after the root, then after
    /// each frontier node, level after level. Empty if they were not recorded.
    pub entropies: &'s [f16],
    /// The draft's output after the root, before its last norm, `[hidden]`. Empty if it was not
    /// recorded.
    pub hidden: &'s [f16],
    /// The same after the best candidate of each level that was expanded, `[D, hidden]`. Empty if
    /// they were not recorded.
    pub states: &'s [f16],
    scores: &'s [f16],
    candidate_tokens: &'s [u32],
    parents: &'s [u16],
    ranks: &'s [u16],
    path_len: usize,
}

/// Marks a group without candidates.
const ABSENT: u16 = u16::MAX;

impl Outline {
    /// Which continuation of which prompt it is: a trace has each once.
    pub fn key(&self) -> (u32, u64) {
        (self.prompt, self.seed)
    }

    /// Recorded positions.
    pub fn len(&self) -> usize {
        self.path_lens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.path_lens.is_empty()
    }

    /// Number of the token that is the root of a recorded position: `prompt_len + position`, unless
    /// some are left out.
    pub fn root(&self, position: usize) -> usize {
        self.prompt_len + position * self.every
    }

    /// Tokens after the root of a recorded position of which it is known whether a chain that has
    /// them would be accepted: the token after the last accepted one must be known, too.
    pub fn known(&self, position: usize) -> usize {
        self.tokens.len().saturating_sub(self.root(position) + 2)
    }

    /// Draft tokens that a cycle of this depth and size would accept at a recorded position.
    pub fn accepted(&self, position: usize, depth: usize, size: usize) -> usize {
        accepted(self.ranks_at(position), self.path_lens[position].into(), depth, size)
    }

    fn ranks_at(&self, position: usize) -> &[u16] {
        &self.ranks[self.starts[position] as usize..self.starts[position + 1] as usize]
    }

    /// The same with the first positions alone, at most `count`.
    #[must_use]
    pub(super) fn first(&self, count: usize) -> Self {
        let count = count.min(self.len());
        Self {
            tokens: self.tokens.clone(),
            starts: self.starts[..=count].to_vec(),
            ranks: self.ranks[..self.starts[count] as usize].to_vec(),
            path_lens: self.path_lens[..count].to_vec(),
            ..*self
        }
    }
}

impl TracedSequence {
    /// A sequence without positions, of a trace with this header, of seed 0.
    pub fn new(header: &TraceHeader, prompt: u32, prompt_len: usize, tokens: Vec<u32>) -> Self {
        let outline = Outline {
            prompt,
            seed: 0,
            prompt_len,
            tokens,
            every: header.every,
            starts: vec![0],
            ranks: Vec::new(),
            path_lens: Vec::new(),
        };
        Self {
            outline: Arc::new(outline),
            columns: header.columns(),
            scores: Vec::new(),
            entropies: Vec::new(),
            hidden: Vec::new(),
            states: Vec::new(),
            candidate_tokens: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// Adds the tree of the next position.
    pub fn push(&mut self, grown: &GrownTree) {
        let GrownTree { tree, entropies, hidden, states, .. } = grown;
        let outline = Arc::make_mut(&mut self.outline);
        let root = outline.root(outline.len());
        let continuation = &outline.tokens[root + 1..];
        // The token after the last node of a path must be known too.
        let path = tree.candidates().along(&continuation[..continuation.len().saturating_sub(1)]);
        outline.path_lens.push(path.len() as u8);
        let (width, scores) = (tree.beam_width(), tree.scores());
        for depth in 0..=tree.depth() {
            let drafted = &scores[..tree_candidates(width, depth)];
            outline.ranks.extend(path.iter().take(depth + 1).map(|&node| rank(drafted, node)));
        }
        outline.starts.push(outline.ranks.len() as u32);
        append(&mut self.scores, tree.scores(), self.columns.scores);
        append(&mut self.entropies, entropies, self.columns.entropies);
        append(&mut self.hidden, hidden, self.columns.hidden);
        append(&mut self.states, states, self.columns.states);
        self.candidate_tokens.extend(padded(tree.tokens().iter().copied(), 0, self.columns.tokens));
        let parents = tree.group_parents().iter().map(|&parent| u16::try_from(parent).unwrap_or(ABSENT));
        self.parents.extend(padded(parents, ABSENT, self.columns.parents));
    }

    /// The same with another seed of the continuation.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The sequence with its first positions alone, at most `count`.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        self.cut(&Arc::new(self.outline.first(count)))
    }

    /// The sequence with the first positions alone, those that `outline` has.
    pub(super) fn cut(&self, outline: &Arc<Outline>) -> Self {
        let (count, columns) = (outline.len(), self.columns);
        let Columns { scores, entropies, hidden, states, tokens, parents } = columns;
        Self {
            outline: Arc::clone(outline),
            columns,
            scores: self.scores[..count * scores].to_vec(),
            entropies: self.entropies[..count * entropies].to_vec(),
            hidden: self.hidden[..count * hidden].to_vec(),
            states: self.states[..count * states].to_vec(),
            candidate_tokens: self.candidate_tokens[..count * tokens].to_vec(),
            parents: self.parents[..count * parents].to_vec(),
        }
    }

    /// Bytes that it takes beyond its outline.
    pub(super) fn bytes(&self) -> usize {
        let halves = [&self.scores, &self.entropies, &self.hidden, &self.states].map(Vec::len);
        2 * (halves.iter().sum::<usize>() + self.parents.len()) + 4 * self.candidate_tokens.len()
    }

    /// The tree of a recorded position.
    pub fn position(&self, position: usize) -> TracedPosition<'_> {
        let Columns { scores, entropies, hidden, states, tokens, parents } = self.columns;
        TracedPosition {
            context_length: self.root(position),
            scores: &self.scores[position * scores..][..scores],
            entropies: &self.entropies[position * entropies..][..entropies],
            hidden: &self.hidden[position * hidden..][..hidden],
            states: &self.states[position * states..][..states],
            candidate_tokens: &self.candidate_tokens[position * tokens..][..tokens],
            parents: &self.parents[position * parents..][..parents],
            ranks: self.ranks_at(position),
            path_len: usize::from(self.path_lens[position]),
        }
    }
}

/// Draft tokens that a cycle of this depth and size would accept, of a path with these ranks.
fn accepted(ranks: &[u16], path_len: usize, depth: usize, size: usize) -> usize {
    let first: usize = (0..depth).map(|depth| path_len.min(depth + 1)).sum();
    let ranks = &ranks[first..][..path_len.min(depth + 1)];
    // Ranks grow along the path: a parent stands before its children.
    ranks.partition_point(|&rank| usize::from(rank) < size)
}

impl TracedPosition<'_> {
    /// Draft tokens that a cycle of this depth and size would accept.
    pub fn accepted(&self, depth: usize, size: usize) -> usize {
        accepted(self.ranks, self.path_len, depth, size)
    }

    /// The tokens of the candidates and the parents of their groups, as
    /// [`Candidates`](ltd_cycle::Candidates) have them; none if they were not recorded.
    pub fn candidates(&self) -> Option<(&[u32], Vec<usize>)> {
        let parent = |&parent: &u16| if parent == ABSENT { usize::MAX } else { parent.into() };
        let known = !self.candidate_tokens.is_empty();
        known.then(|| (self.candidate_tokens, self.parents.iter().map(parent).collect()))
    }

    /// The tokens of the candidates after the root, the most probable first; none if they were not
    /// recorded.
    pub fn after_root(&self, beam_width: usize) -> Option<&[u32]> {
        self.candidate_tokens.get(..beam_width)
    }

    /// Writes scores `from..scores.len()` of the tree.
    pub fn write_scores(&self, from: usize, scores: &mut [f32]) {
        let end = scores.len();
        self.scores[from..end].convert_to_f32_slice(&mut scores[from..]);
    }
}

/// Appends a position's numbers in half precision; a number that is missing is zero.
fn append(column: &mut Vec<f16>, numbers: &[f32], width: usize) {
    let at = column.len();
    column.resize(at + width, f16::ZERO);
    let known = width.min(numbers.len());
    column[at..at + known].convert_from_f32_slice(&numbers[..known]);
}

/// The first `width` of some numbers; those that are missing are `missing`.
fn padded<T: Clone>(numbers: impl Iterator<Item = T>, missing: T, width: usize) -> impl Iterator<Item = T> {
    numbers.chain(std::iter::repeat(missing)).take(width)
}

/// Candidates that are chosen for verification before this one: higher scores, or equal ones that
/// stand before it.
fn rank(scores: &[f32], node: usize) -> u16 {
    let score = scores[node];
    let before = scores[..node].iter().filter(|&&other| other >= score).count();
    let after = scores[node + 1..].iter().filter(|&&other| other > score).count();
    (before + after) as u16
}

#[cfg(test)]
mod tests {
    use ltd_cycle::DraftTree;

    use super::*;

    /// A sequence of two prompt tokens, with the tree after them and those that the header has it
    /// hold.
    fn sequence(every: usize, tokens: &[u32], positions: usize) -> TracedSequence {
        let header = TraceHeader {
            depth: 1,
            every,
            entropies: true,
            hidden: Some(3),
            states: Some(2),
            ..crate::trace::tests::header()
        };
        let mut sequence = TracedSequence::new(&header, 0, 2, tokens.to_vec());
        for position in 0..positions {
            let mut tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
            tree.push_level(&[-0.1, -2.0, -0.2, -3.0], &[1, 2, 3, 4]);
            let (entropies, hidden) = (vec![0.5, 1.0, position as f32], vec![-1.0, 2.0, position as f32]);
            let states = vec![0.25, position as f32];
            sequence.push(&GrownTree { root: 2 + position * every, tree, entropies, hidden, states });
        }
        sequence
    }

    #[test]
    fn outcomes_are_those_of_a_selection() {
        // The target goes on with 8, 3, 9.
        let sequence = sequence(1, &[5, 5, 6, 8, 3, 9], 1);
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
        let sequence = sequence(1, &[5, 5, 6, 8, 3], 1);
        // The token after 3 is unknown: a cycle that accepted it would have no next root.
        assert_eq!(sequence.position(0).accepted(1, 6), 1);
        let mut scores = [0.0; 6];
        sequence.position(0).write_scores(0, &mut scores);
        assert!((scores[4] + 1.2).abs() < 1e-3);
    }

    #[test]
    fn positions_that_are_left_out_are_passed_over() {
        // Trees after token 2 and token 4, where the target goes on with 7, 9.
        let sequence = sequence(2, &[5, 5, 6, 8, 3, 7, 9], 2);
        assert_eq!((sequence.len(), sequence.root(0), sequence.root(1)), (2, 2, 4));
        let [first, second] = [0, 1].map(|position| sequence.position(position));
        assert_eq!((first.context_length, second.context_length), (2, 4));
        assert_eq!((first.accepted(1, 6), second.accepted(1, 6)), (2, 1));
        let numbers = |column: &[f16]| column.iter().map(|value| value.to_f32()).collect::<Vec<_>>();
        assert_eq!(numbers(second.entropies), [0.5, 1.0, 1.0]);
        assert_eq!(numbers(second.hidden), [-1.0, 2.0, 1.0]);
        assert_eq!(numbers(second.states), [0.25, 1.0]);
    }
}
