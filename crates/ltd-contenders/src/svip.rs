//! SVIP.

use ltd_cycle::{Controller, Glimpse, Looks, MAX_DEPTH};
use ltd_policy::CycleSummary;

use crate::newest::Newest;

/// SVIP (arXiv 2411.18462): with `H` the entropy, in nats, of the distribution that the newest
/// token was drawn from, drafting ends where `sqrt(c * H) > h`. `1 - sqrt(c * H)` estimates how
/// probable acceptance is. The token itself is kept, as in the published code. Values are those of
/// that code; levels and size are those that the appendix of Learning to Draft (arXiv 2603.01639)
/// gives methods of this kind.
///
/// The published code drafts chains. Read so on trees: the token is the best candidate of the
/// newest level, by its path's probability, and `H` is the entropy of the distribution that it is
/// among the best of. On a chain both are what that code looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Svip {
    /// What the entropy is multiplied with, `c`.
    pub scale: f64,
    /// The largest root to go on, `h`.
    pub threshold: f64,
    /// Most levels, the root expansion's included.
    pub most: usize,
    /// Candidates to verify.
    pub size: usize,
    /// Whether the newest token is too uncertain to go on after it.
    uncertain: bool,
}

impl Default for Svip {
    fn default() -> Self {
        Self { scale: 0.15, threshold: 0.3, most: MAX_DEPTH, size: 60, uncertain: false }
    }
}

impl Controller for Svip {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn looks(&self) -> Looks {
        Looks::ENTROPIES
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        let entropy = f64::from(Newest::of(summary, glimpse).entropy);
        self.uncertain = (self.scale * entropy).sqrt() > self.threshold;
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.most && !self.uncertain
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{chain, summary};

    /// Whether it goes on after a level of a chain, whose distribution has this entropy.
    fn goes_on(depth: usize, entropy: f32) -> bool {
        let scores = chain(&vec![0.9; depth + 1]);
        let mut entropies = vec![5.0; depth];
        entropies.push(entropy);
        let mut rule = Svip::default();
        let summary = summary(1, depth, &scores);
        rule.look(&summary, &Glimpse::of_entropies(&entropies));
        rule.continue_drafting(&summary)
    }

    #[test]
    fn it_stops_behind_an_uncertain_token() {
        // sqrt(0.15 * 0.59) = 0.2975, sqrt(0.15 * 0.61) = 0.3025.
        assert!(goes_on(0, 0.59) && goes_on(4, 0.59) && goes_on(3, 0.0));
        assert!(!goes_on(0, 0.61) && !goes_on(4, 0.61));
        assert!(goes_on(10, 0.1) && !goes_on(11, 0.1), "at most 12 levels");
    }
}
