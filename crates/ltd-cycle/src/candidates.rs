//! Which candidates of a draft tree, and which tokens of a chain, the target verifies.

use half::f16;
use ltd_policy::{Agreement, Calibration};

use crate::VerificationTree;

/// Marks a group of no candidates.
pub(crate) const ABSENT: usize = usize::MAX;

/// The candidates of a draft tree, wherever they are kept: groups of `beam_width`, each the
/// children of one parent, level after level.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'t> {
    /// Candidates per group, `W`.
    pub beam_width: usize,
    /// Cumulative log-probs.
    pub scores: &'t [f32],
    /// Tokens of the target's vocabulary.
    pub tokens: &'t [u32],
    /// Parent of each group: 0 for the root, else 1 + the parent's flat index; `usize::MAX` for a
    /// group without candidates.
    pub group_parents: &'t [usize],
}

/// Tokens that were said before, to be verified with the candidates of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'c> {
    /// The tokens, which follow the root one after another; none where nothing matches.
    pub tokens: &'c [u32],
    /// Latest tokens that match, at least 1 if there is a chain.
    pub match_length: usize,
    /// How probable tokens of either source are.
    pub calibration: &'c Calibration,
}

impl Candidates<'_> {
    /// Flat indices of the candidates along a text that goes on from the root, as far as the tree
    /// has it.
    pub fn along(&self, text: &[u32]) -> Vec<usize> {
        let mut path = Vec::new();
        let mut parent = 0;
        for token in text {
            let group = self.group_parents.iter().position(|&of| of == parent);
            let Some(start) = group.map(|group| group * self.beam_width) else { break };
            let children = &self.tokens[start..start + self.beam_width];
            let Some(child) = children.iter().position(|found| found == token) else { break };
            path.push(start + child);
            parent = start + child + 1;
        }
        path
    }

    /// The `size` most probable of these candidates and of a chain's tokens, each path once. Closed
    /// under parents; of equally probable ones, the candidates of the tree come first, as they are
    /// numbered.
    ///
    /// After the tokens before it, the next token of the chain is right with the probability that
    /// the calibration says; if it is not, the draft model's candidates have the probabilities that
    /// they would have without the chain. A token of both is right if either is.
    pub fn merge(&self, root: u32, size: usize, chain: &Chain) -> VerificationTree {
        let (worth, shared) = self.worth(chain);
        let mut selected = best(&worth, 0, size);
        selected.retain(|&at| worth[at] > f32::NEG_INFINITY);
        selected.sort_unstable();
        let own = selected.split_off(selected.partition_point(|&at| at < self.scores.len()));
        self.verification(root, selected, &shared, &chain.tokens[shared.len()..][..own.len()])
    }

    /// The places, by probability, of the candidates and the chain's tokens along a text, as far as
    /// either goes: of `size` that are verified, those below `size`. Never falling.
    pub fn merged_ranks(&self, text: &[u32], chain: &Chain) -> Vec<usize> {
        let (worth, shared) = self.worth(chain);
        let mut path = self.along(text);
        let copied = text.iter().zip(chain.tokens).take_while(|(said, copied)| said == copied).count();
        path.extend((path.len()..copied).map(|place| self.scores.len() + place - shared.len()));
        let rank = |&at: &usize| {
            let before = |(other, worth_of): (usize, &f32)| {
                *worth_of > worth[at] || (*worth_of == worth[at] && other < at)
            };
            worth.iter().enumerate().filter(|&other| before(other)).count()
        };
        path.iter().map(rank).collect()
    }

    /// Probabilities of the candidates, then of the chain's tokens that the tree does not have; and
    /// the candidates that the chain begins with.
    fn worth(&self, chain: &Chain) -> (Vec<f32>, Vec<usize>) {
        let Chain { tokens, match_length, calibration } = *chain;
        let shared = self.along(tokens);
        let after_root = &self.tokens[..self.beam_width];
        let agreement = tokens.first().map_or(Agreement::Absent, |&token| Agreement::of(token, after_root));
        // Probability of the chain as far as place `n`, if the draft model is not asked.
        let copied =
            |place: usize| if place == 0 { 1.0 } else { calibration.copied(match_length, agreement, place) };
        let next = |place: usize| if copied(place) > 0.0 { copied(place + 1) / copied(place) } else { 0.0 };
        // Recordings hold scores in half precision: a replay has to come to the same.
        let drafted = |at: usize| calibration.drafted(f16::from_f32(self.scores[at]).to_f32());

        let mut worth = vec![f32::NEG_INFINITY; self.scores.len()];
        // What the chain makes of the draft model's own probability, of a candidate and all below.
        let mut scale = vec![1.0; self.scores.len()];
        for (group, &parent) in self.group_parents.iter().enumerate() {
            if parent == ABSENT {
                continue;
            }
            let parent = parent.checked_sub(1);
            let (most, scale_before) = parent.map_or((1.0, 1.0), |parent| (worth[parent], scale[parent]));
            // Place of the parent along the chain, and the candidate that the chain goes on with.
            let place = match parent {
                None => Some(0),
                Some(parent) => shared.iter().position(|&node| node == parent).map(|at| at + 1),
            };
            let goes_on = place.filter(|&place| place < tokens.len()).map_or(0.0, next);
            let copy = place.and_then(|place| shared.get(place).copied());
            for at in group * self.beam_width..(group + 1) * self.beam_width {
                let alone = drafted(at);
                worth[at] = (alone * scale_before * (1.0 - goes_on)).min(most);
                scale[at] = scale_before * (1.0 - goes_on);
                if copy == Some(at) {
                    worth[at] = (worth[at] + most * goes_on).min(most);
                    scale[at] = if alone > 0.0 { worth[at] / alone } else { 0.0 };
                }
            }
        }
        let mut before = shared.last().map_or(1.0, |&last| worth[last]);
        for place in shared.len()..tokens.len() {
            before *= next(place);
            worth.push(before);
        }
        (worth, shared)
    }

    /// The rows of these candidates, ascending and closed under parents, and after them those of
    /// tokens of a chain that are not in the tree, `own`. `shared` are its tokens before these.
    pub(crate) fn verification(
        &self,
        root: u32,
        selected: Vec<usize>,
        shared: &[usize],
        own: &[u32],
    ) -> VerificationTree {
        let row_of = |candidate: usize| selected.binary_search(&candidate).ok().map(|at| at + 1);
        let rows = selected.len() + own.len() + 1;
        let (mut tokens, mut depths) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut parent_rows = Vec::with_capacity(rows);
        tokens.push(root);
        depths.push(0);
        for &candidate in &selected {
            let parent = self.group_parents[candidate / self.beam_width];
            let row = parent.checked_sub(1).map_or(0, |parent| {
                row_of(parent).expect("invariant: the selection is closed under parents")
            });
            tokens.push(self.tokens[candidate]);
            depths.push(depths[row] + 1);
            parent_rows.push(row);
        }
        let mut chain_rows: Vec<usize> = shared.iter().map_while(|&candidate| row_of(candidate)).collect();
        for &token in own {
            let row = chain_rows.last().copied().unwrap_or(0);
            chain_rows.push(tokens.len());
            tokens.push(token);
            depths.push(depths[row] + 1);
            parent_rows.push(row);
        }
        VerificationTree { selected, tokens, parent_rows, depths, chain_rows }
    }
}

/// Indices from `start` on of the `count` largest scores, best first, earlier first among equals.
pub(crate) fn best(scores: &[f32], start: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (start..scores.len()).collect();
    let by_score = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    if count < order.len() {
        if count == 0 {
            return Vec::new();
        }
        order.select_nth_unstable_by(count - 1, by_score);
        order.truncate(count);
    }
    order.sort_unstable_by(by_score);
    order
}
