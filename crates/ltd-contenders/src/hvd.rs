//! Hybrid Verified Decoding.

use ltd_cycle::{Controller, WholeBeam};
use ltd_policy::{CycleSummary, DraftSource, LONGEST_MATCH, SourceSummary};

use crate::classifiers::{Classifier, Judge};

/// Hybrid Verified Decoding (arXiv 2606.01019): predicts how many tokens of a copy would be
/// accepted, before anything is verified, and copies where that is enough, else asks the draft
/// model.
///
/// Its predictor is not known to us. Read so: a classifier says from where the latest tokens were
/// said before how probable it is that at least [`Hvd::ENOUGH`] copied tokens are accepted, and it
/// copies where that is more probable than not. Between copies it drafts constant trees. The
/// tokens that it copies are as many as SAM-Decoding's.
#[derive(Debug, Clone)]
pub struct Hvd {
    judge: Judge,
    /// Tokens to copy.
    pub chain: usize,
    /// Trees between copies.
    pub trees: WholeBeam,
}

impl Hvd {
    /// Tokens that must be expected to be accepted.
    pub const ENOUGH: usize = 6;
    /// Numbers that the classifier sees.
    pub const FEATURES: usize = 5;
    /// Width of its hidden layer.
    pub const HIDDEN: usize = 64;
    /// Probability from which on it copies.
    pub const THRESHOLD: f64 = 0.5;

    /// The rule with a classifier.
    pub fn new(classifier: &Classifier, trees: WholeBeam) -> Self {
        Self { judge: Judge::new(classifier), chain: 40, trees }
    }

    /// What the classifier sees: the share of the longest match that is known, the occurrences and
    /// the tokens since the latest in logarithms, the share of occurrences that agree, and whether
    /// the latest is in the prompt. None where nothing matches.
    pub fn features(summary: &SourceSummary) -> Option<[f32; Self::FEATURES]> {
        let SourceSummary { match_length, occurrences, agreeing, distance, in_prompt, .. } = *summary;
        (match_length > 0).then(|| {
            [
                match_length as f32 / LONGEST_MATCH as f32,
                (1.0 + occurrences as f32).ln(),
                (1.0 + distance as f32).ln(),
                agreeing as f32 / occurrences.max(1) as f32,
                f32::from(in_prompt),
            ]
        })
    }
}

impl Controller for Hvd {
    fn size_limit(&self) -> usize {
        self.trees.size_limit()
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        match Self::features(summary) {
            Some(features) if self.judge.accepts(&features) => DraftSource::Copy { chain: self.chain },
            _ => DraftSource::Tree,
        }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.trees.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.trees.verification_size(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EAGLE_DEFAULT;
    use crate::made_up::classifier;

    #[test]
    fn it_copies_where_enough_tokens_are_expected() {
        // Log-odds of a share of the longest match of a half, and one more in the prompt.
        let weights = [4.0, 0.0, 0.0, 0.0, 1.0];
        let mut rule = Hvd::new(&classifier(&weights, -2.0, Hvd::HIDDEN, Hvd::THRESHOLD), EAGLE_DEFAULT);
        let mut source = |match_length, in_prompt| {
            rule.source(&SourceSummary { match_length, in_prompt, ..SourceSummary::default() })
        };
        let copy = DraftSource::Copy { chain: 40 };
        assert_eq!([7, 8, 9].map(|length| source(length, false)), [DraftSource::Tree, copy, copy]);
        assert_eq!([3, 4].map(|length| source(length, true)), [DraftSource::Tree, copy]);
        assert!(rule.chooses_source());
    }

    #[test]
    fn it_sees_where_the_latest_tokens_were_said() {
        let summary = SourceSummary {
            match_length: 4,
            occurrences: 3,
            agreeing: 2,
            distance: 11,
            in_prompt: true,
            ..SourceSummary::default()
        };
        let expected = [0.25, 4f32.ln(), 12f32.ln(), 2.0 / 3.0, 1.0];
        assert_eq!(Hvd::features(&summary), Some(expected));
        assert_eq!(Hvd::features(&SourceSummary::default()), None);
    }
}
