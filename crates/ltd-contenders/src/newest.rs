//! The best candidate of a tree's newest level, and the draft's distribution that it comes from:
//! what rules for chains look at, read on trees.

use ltd_cycle::Glimpse;
use ltd_policy::CycleSummary;

/// The best path's newest candidate. On a chain it is the token drafted last, and the distribution
/// the one that it was drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Newest<'a> {
    /// Its place among all candidates.
    pub candidate: usize,
    /// Cumulative log-probs of the `W` best candidates of its distribution, best first: its own is
    /// the first.
    pub group: &'a [f32],
    /// Cumulative log-prob of what its distribution follows, 0 of the root.
    pub parent: f32,
    /// Entropy of its distribution, in nats.
    pub entropy: f32,
}

impl<'a> Newest<'a> {
    /// Of equally good candidates the first.
    pub fn of(summary: &CycleSummary<'a>, glimpse: &Glimpse) -> Self {
        let (width, level) = (summary.beam_width, summary.last_level());
        // Each group has its best candidate in front.
        let groups = level.chunks_exact(width).enumerate();
        let (place, group) =
            groups.rev().max_by(|a, b| a.1[0].total_cmp(&b.1[0])).expect("invariant: a level has a group");
        let entropy = glimpse.last_level(summary)[place];
        let candidate = summary.scores.len() - level.len() + place * width;
        Self { candidate, group, parent: parent(summary, place), entropy }
    }
}

/// Cumulative log-prob of what a group of the newest level follows. Groups stand in the order of
/// the candidates that were expanded, which are the best of the level above, best first.
fn parent(summary: &CycleSummary, group: usize) -> f32 {
    let Some(draft_depth) = summary.draft_depth.checked_sub(1) else { return 0.0 };
    let scores = crate::probabilities::above_last_level(summary);
    let mut above = CycleSummary { scores, draft_depth, ..*summary }.last_level().to_vec();
    let (_, parent, _) = above.select_nth_unstable_by(group, |a, b| b.total_cmp(a));
    *parent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::summary;

    #[test]
    fn the_best_newest_candidate_and_its_distribution_are_found() {
        // The second group is better, below the less probable candidate of the root's.
        let scores = [-1.0, -1.5, -2.5, -4.0, -1.75, -3.0];
        let newest = |depth: usize, entropies: &[f32]| {
            let scores = &scores[..2 + 4 * depth];
            Newest::of(&summary(2, depth, scores), &Glimpse::of_entropies(entropies))
        };
        let first = Newest { candidate: 0, group: &[-1.0, -1.5], parent: 0.0, entropy: 0.5 };
        assert_eq!(newest(0, &[0.5]), first);
        let second = Newest { candidate: 4, group: &[-1.75, -3.0], parent: -1.5, entropy: 0.25 };
        assert_eq!(newest(1, &[0.5, 0.75, 0.25]), second);
        // Of equals the first.
        let scores = [-1.0, -1.5, -2.0, -4.0, -2.0, -3.0];
        let found = Newest::of(&summary(2, 1, &scores), &Glimpse::of_entropies(&[0.5, 0.75, 0.25]));
        assert_eq!((found.entropy, found.parent), (0.75, -1.0));
    }
}
