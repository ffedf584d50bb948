//! Path probabilities of a tree's candidates, from their scores.

use ltd_policy::CycleSummary;

/// Probabilities of the best `most` of some candidates, best first; those without a score, minus
/// infinity, are none.
pub(crate) fn best(scores: &[f32], most: usize) -> Vec<f64> {
    let mut scores: Vec<f32> = scores.iter().copied().filter(|score| *score > f32::NEG_INFINITY).collect();
    if most < scores.len() {
        if most == 0 {
            return Vec::new();
        }
        scores.select_nth_unstable_by(most - 1, |a, b| b.total_cmp(a));
        scores.truncate(most);
    }
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.into_iter().map(|score| f64::from(score).exp()).collect()
}

/// Sum of the probabilities of the best `most` of some candidates.
pub(crate) fn mass(scores: &[f32], most: usize) -> f64 {
    best(scores, most).iter().sum()
}

/// Scores of a tree without its newest level; none after the root expansion.
pub(crate) fn above_last_level<'a>(summary: &CycleSummary<'a>) -> &'a [f32] {
    &summary.scores[..summary.scores.len() - summary.last_level().len()]
}

/// Candidates that each level after the root expansion has expanded. The first child of an expanded
/// candidate has a score.
pub(crate) fn level_rows<'a>(summary: &CycleSummary<'a>) -> impl Iterator<Item = usize> + 'a {
    let width = summary.beam_width;
    let expanded =
        move |level: &[f32]| level.chunks_exact(width).filter(|group| group[0] > f32::NEG_INFINITY).count();
    summary.scores[width..].chunks_exact(width * width).map(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::summary;

    #[test]
    fn the_best_are_those_of_the_highest_scores() {
        let scores = [0.5f32.ln(), f32::NEG_INFINITY, 0.25f32.ln(), 0.75f32.ln()];
        let near = |found: &[f64], expected: &[f64]| {
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        assert!(near(&best(&scores, 2), &[0.75, 0.5]));
        assert!(near(&best(&scores, 9), &[0.75, 0.5, 0.25]));
        assert!(best(&scores, 0).is_empty());
        assert!((mass(&scores, 2) - 1.25).abs() < 1e-6);
    }

    #[test]
    fn levels_are_told_apart() {
        let none = f32::NEG_INFINITY;
        let scores = [-1.0, -2.0, -1.5, -3.0, none, none, -2.0, -2.5, -4.0, -5.0];
        let summary = summary(2, 2, &scores);
        assert_eq!(level_rows(&summary).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(above_last_level(&summary), &scores[..6]);
    }
}
