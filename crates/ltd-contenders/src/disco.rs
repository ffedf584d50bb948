//! Disco.

use ltd_cycle::{Controller, Glimpse, Looks, MAX_DEPTH};
use ltd_policy::CycleSummary;

use crate::classifiers::{Classifier, Judge};
use crate::newest::Newest;

/// Probabilities that are looked at.
const BEST: usize = 10;

/// Disco (dynamic speculation lookahead, arXiv 2405.04304), as the appendix of Learning to Draft
/// (arXiv 2603.01639) sets it: a classifier says from the ten largest probabilities of the draft's
/// distribution, its entropy and the level how probable the newest token is to be accepted, and
/// drafting ends where that is below a threshold.
///
/// It is for chains. Read so on trees: the token is the best candidate of the newest level
/// ([`Newest`]), and accepted only if those before it are. Levels count from 1, the root
/// expansion's. The ten largest are among the `W` that are drafted; where `W` is less, the others
/// are 0.
#[derive(Debug, Clone)]
pub struct Disco {
    judge: Judge,
    /// Most levels, the root expansion's included.
    pub most: usize,
    /// Candidates to verify.
    pub size: usize,
    /// Whether the newest token is probable enough to go on after it.
    probable: bool,
}

impl Disco {
    /// Numbers that the classifier sees.
    pub const FEATURES: usize = BEST + 2;
    /// Width of its hidden layer.
    pub const HIDDEN: usize = 128;

    /// The rule with a classifier.
    pub fn new(classifier: &Classifier, size: usize) -> Self {
        Self { judge: Judge::new(classifier), most: MAX_DEPTH, size, probable: true }
    }

    /// What the classifier sees of the newest level: ten probabilities, the entropy in nats, the
    /// level.
    pub fn features(summary: &CycleSummary, glimpse: &Glimpse) -> [f32; Self::FEATURES] {
        let newest = Newest::of(summary, glimpse);
        let mut features = [0.0; Self::FEATURES];
        for (feature, score) in features.iter_mut().zip(newest.group.iter().take(BEST)) {
            // What cannot be has no probability, whatever it follows.
            if *score > f32::NEG_INFINITY {
                *feature = (score - newest.parent).min(0.0).exp();
            }
        }
        features[BEST] = newest.entropy;
        features[BEST + 1] = (summary.draft_depth + 1) as f32;
        features
    }
}

impl Controller for Disco {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn looks(&self) -> Looks {
        Looks::ENTROPIES
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        self.probable = self.judge.accepts(&Self::features(summary, glimpse));
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.most && self.probable
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{classifier, summary};

    #[test]
    fn it_sees_the_distribution_of_the_best_newest_candidate() {
        // The second group follows 0.4 and has candidates of 0.9 and 0.05 in it.
        let scores = [0.5f32, 0.4, 0.2, 0.1, 0.36, 0.02].map(f32::ln);
        let features = Disco::features(&summary(2, 1, &scores), &Glimpse::of_entropies(&[1.0, 0.5, 0.25]));
        let mut expected = [0.0; 12];
        (expected[0], expected[1], expected[10], expected[11]) = (0.9, 0.05, 0.25, 2.0);
        assert!(features.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{features:?}");
        let impossible = [f32::NEG_INFINITY; 6];
        let features = Disco::features(&summary(2, 1, &impossible), &Glimpse::of_entropies(&[1.0; 3]));
        assert_eq!(features[..10], [0.0; 10]);
    }

    #[test]
    fn it_stops_behind_an_improbable_token() {
        // Log-odds of 4 * (p - 0.5), of the best candidate's probability.
        let mut weights = [0.0; 12];
        weights[0] = 4.0;
        let goes_on = |probability: f32, threshold: f64| {
            let classifier = classifier(&weights, -2.0, Disco::HIDDEN, threshold);
            let mut rule = Disco::new(&classifier, 60);
            let scores = [probability.ln()];
            let summary = summary(1, 0, &scores);
            rule.look(&summary, &Glimpse::of_entropies(&[0.5]));
            rule.continue_drafting(&summary)
        };
        assert!(goes_on(0.51, 0.5) && !goes_on(0.49, 0.5));
        // 0.6 has log-odds of 0.405: a probability of 0.601.
        assert!(goes_on(0.602, 0.6) && !goes_on(0.6, 0.6));
        assert!(goes_on(0.01, 0.0) && !goes_on(0.99, 1.0));
        let scores = [-0.01; 12];
        let mut rule = Disco::new(&classifier(&weights, -2.0, Disco::HIDDEN, 0.5), 60);
        rule.look(&summary(1, 11, &scores), &Glimpse::of_entropies(&[0.1; 12]));
        assert!(!rule.continue_drafting(&summary(1, 11, &scores)), "at most 12 levels");
    }
}
