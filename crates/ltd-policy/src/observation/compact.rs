//! Few numbers per level that carry nearly all that the scores say about acceptance.

use super::{CycleSummary, PROBABILITY_FLOOR};
use crate::action::tree_candidates;

/// Numbers per level: its 3 best path probabilities, the mass of its best 10, and the mass of the
/// best 4, 12 and 32 candidates of this level and those above.
pub(super) const NUMBERS: usize = TOP + 1 + BEST_SO_FAR.len();
const TOP: usize = 3;
const LEVEL_MASS: usize = 10;
const BEST_SO_FAR: [usize; 3] = [4, 12, 32];
const MOST: usize = BEST_SO_FAR[2];

/// Path probabilities `exp(score)` of each level drafted, in a summary of few numbers.
pub(super) fn level_numbers(summary: &CycleSummary) -> impl Iterator<Item = [f32; NUMBERS]> {
    let width = summary.beam_width;
    let mut best_so_far = Best::<MOST>::default();
    (0..=summary.draft_depth).map(move |level| {
        let start = level.checked_sub(1).map_or(0, |above| tree_candidates(width, above));
        let end = tree_candidates(width, level);
        let mut best_of_level = Best::<LEVEL_MASS>::default();
        for &score in &summary.scores[start..end] {
            best_of_level.insert(score);
            best_so_far.insert(score);
        }
        let mut numbers = [0.0; NUMBERS];
        numbers[..TOP].copy_from_slice(&best_of_level.probabilities()[..TOP]);
        numbers[TOP] = best_of_level.probabilities().iter().sum();
        let sorted = best_so_far.probabilities();
        for (number, count) in numbers[TOP + 1..].iter_mut().zip(BEST_SO_FAR) {
            *number = sorted[..count].iter().sum();
        }
        numbers
    })
}

/// Logarithm of a probability, no lower than that of [`PROBABILITY_FLOOR`].
pub(super) fn floored_log(probability: f32) -> f32 {
    probability.max(PROBABILITY_FLOOR).ln()
}

/// The `N` largest scores seen, descending, with their probabilities.
struct Best<const N: usize> {
    scores: [f32; N],
    probabilities: [f32; N],
}

impl<const N: usize> Default for Best<N> {
    fn default() -> Self {
        Self { scores: [f32::NEG_INFINITY; N], probabilities: [0.0; N] }
    }
}

impl<const N: usize> Best<N> {
    /// Most candidates fail the first comparison: of the hundreds of a level, few are among the
    /// best.
    fn insert(&mut self, score: f32) {
        if score <= self.scores[N - 1] {
            return;
        }
        let mut place = N - 1;
        while place > 0 && self.scores[place - 1] < score {
            self.scores[place] = self.scores[place - 1];
            self.probabilities[place] = self.probabilities[place - 1];
            place -= 1;
        }
        self.scores[place] = score;
        self.probabilities[place] = score.exp();
    }

    fn probabilities(&self) -> &[f32; N] {
        &self.probabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: sort everything.
    fn by_sorting(scores: &[f32], width: usize, depth: usize) -> Vec<[f32; NUMBERS]> {
        let sum = |sorted: &[f32], count: usize| sorted.iter().take(count).sum::<f32>();
        let sorted = |scores: &[f32]| {
            let mut probabilities: Vec<f32> = scores.iter().map(|score| score.exp()).collect();
            probabilities.sort_by(|a, b| b.total_cmp(a));
            probabilities
        };
        let mut levels = Vec::new();
        for level in 0..=depth {
            let end = tree_candidates(width, level);
            let start = if level == 0 { 0 } else { end - width * width };
            let (own, all) = (sorted(&scores[start..end]), sorted(&scores[..end]));
            let top = |index: usize| own.get(index).copied().unwrap_or(0.0);
            levels.push([top(0), top(1), top(2), sum(&own, 10), sum(&all, 4), sum(&all, 12), sum(&all, 32)]);
        }
        levels
    }

    proptest! {
        #[test]
        fn partial_selection_gives_what_sorting_gives(
            width in 1usize..11,
            depth in 0usize..5,
            scores in prop::collection::vec(prop_oneof![-12.0f32..0.0, Just(-1.5f32), Just(f32::NEG_INFINITY)], 410),
        ) {
            let scores = &scores[..tree_candidates(width, depth)];
            let summary = CycleSummary { scores, beam_width: width, frontier: width, draft_depth: depth, context_length: 3 };
            let found: Vec<_> = level_numbers(&summary).collect();
            let expected = by_sorting(scores, width, depth);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                prop_assert!((found - expected).abs() < 1e-5, "{} {}", found, expected);
            }
        }
    }
}
