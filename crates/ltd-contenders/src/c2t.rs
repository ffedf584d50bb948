//! C2T.

use ltd_cycle::{Controller, Glimpse, Looks, MAX_DEPTH};
use ltd_policy::CycleSummary;

use crate::classifiers::{Classifier, Judge};

/// C2T (arXiv 2502.13652), as the appendix of Learning to Draft (arXiv 2603.01639) sets it: a
/// classifier says from a candidate's joint probability, the entropy of the distribution that it
/// comes from, and its depth how probable it is to be accepted. Candidates from a threshold on are
/// kept.
///
/// Read so: levels are drafted as the engine does, from the best of the level before, while the
/// newest level has a candidate that is kept. As many candidates are verified as are kept in all
/// levels, the best by their joint probability, at least one. Depths count from 1, that of the root
/// expansion's candidates. The entropy is that before the token: that after it is not known until
/// it is expanded.
#[derive(Debug, Clone)]
pub struct C2t {
    judge: Judge,
    /// Most levels, the root expansion's included.
    pub most: usize,
    /// Most candidates to verify.
    pub size: usize,
    /// Candidates that are kept, in all levels so far.
    kept: usize,
    /// Whether the newest level has one of them.
    goes_on: bool,
}

impl C2t {
    /// Numbers that the classifier sees.
    pub const FEATURES: usize = 3;
    /// Width of its hidden layer.
    pub const HIDDEN: usize = 64;

    /// The rule with a classifier.
    pub fn new(classifier: &Classifier, size: usize) -> Self {
        Self { judge: Judge::new(classifier), most: MAX_DEPTH, size, kept: 0, goes_on: true }
    }

    /// What the classifier sees of each candidate of the newest level: joint probability, entropy
    /// in nats, depth. A probability of 0 is one that cannot be, or a place without a candidate.
    pub fn features<'a>(
        summary: &CycleSummary<'a>,
        glimpse: &Glimpse<'a>,
    ) -> impl Iterator<Item = [f32; Self::FEATURES]> + 'a {
        let depth = (summary.draft_depth + 1) as f32;
        let groups = summary.last_level().chunks_exact(summary.beam_width);
        groups
            .zip(glimpse.last_level(summary))
            .flat_map(move |(group, &entropy)| group.iter().map(move |score| [score.exp(), entropy, depth]))
    }
}

impl Controller for C2t {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn begin_cycle(&mut self) {
        self.kept = 0;
    }

    fn looks(&self) -> Looks {
        Looks::ENTROPIES
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        let judge = &mut self.judge;
        let kept = Self::features(summary, glimpse)
            .filter(|features| features[0] > 0.0 && judge.accepts(features))
            .count();
        self.kept += kept;
        self.goes_on = kept > 0;
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.most && self.goes_on
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.kept.min(self.size).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{classifier, summary};

    /// Log-odds of `10 * (p - 0.1 - entropy)`.
    fn rule(size: usize) -> C2t {
        C2t::new(&classifier(&[10.0, -10.0, 0.0], -1.0, C2t::HIDDEN, 0.5), size)
    }

    #[test]
    fn it_sees_each_candidate_of_the_newest_level() {
        let scores = [0.5f32, 0.25, 0.375, 0.125, 0.0625, 0.0].map(f32::ln);
        let glimpse = Glimpse::of_entropies(&[2.0, 0.5, 0.75]);
        let first: Vec<_> =
            C2t::features(&summary(2, 0, &scores[..2]), &Glimpse::of_entropies(&[2.0])).collect();
        assert_eq!(first, [[0.5, 2.0, 1.0], [0.25, 2.0, 1.0]]);
        let second: Vec<_> = C2t::features(&summary(2, 1, &scores), &glimpse).collect();
        let expected = [[0.375, 0.5, 2.0], [0.125, 0.5, 2.0], [0.0625, 0.75, 2.0], [0.0, 0.75, 2.0]];
        assert!(second.concat().iter().zip(expected.concat()).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn it_goes_on_while_something_is_kept_and_verifies_as_much() {
        let scores = [0.5f32, 0.25, 0.375, 0.125, 0.125, 0.05].map(f32::ln);
        let decide = |size: usize, entropies: [f32; 3]| {
            let mut rule = rule(size);
            rule.begin_cycle();
            let (first, second) = (summary(2, 0, &scores[..2]), summary(2, 1, &scores));
            rule.look(&first, &Glimpse::of_entropies(&entropies[..1]));
            let goes_on = rule.continue_drafting(&first);
            rule.look(&second, &Glimpse::of_entropies(&entropies));
            (goes_on, rule.continue_drafting(&second), rule.verification_size(&second))
        };
        // All but the last: 0.05 is below 0.1.
        assert_eq!(decide(60, [0.0, 0.0, 0.0]), (true, true, 5));
        assert_eq!(decide(4, [0.0, 0.0, 0.0]), (true, true, 4));
        // 0.5 from the root, then nothing: 0.375 is below 0.1 + 0.3.
        assert_eq!(decide(60, [0.2, 0.3, 0.3]), (true, false, 1));
        assert_eq!(decide(60, [0.5, 0.5, 0.5]), (false, false, 1), "at least one");
    }

    #[test]
    fn cycles_do_not_add_up_and_levels_have_a_most() {
        let scores = [-0.01f32; 12];
        let mut rule = rule(60);
        for _ in 0..2 {
            rule.begin_cycle();
            rule.look(&summary(1, 0, &scores[..1]), &Glimpse::of_entropies(&[0.0]));
            assert_eq!(rule.verification_size(&summary(1, 0, &scores[..1])), 1);
        }
        assert!(!rule.continue_drafting(&summary(1, 11, &scores)));
    }
}
