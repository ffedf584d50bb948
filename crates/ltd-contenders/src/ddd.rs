//! Dynamic depth decoding.

use ltd_cycle::{Controller, MAX_DEPTH};
use ltd_policy::CycleSummary;

use crate::probabilities::mass;

/// Dynamic depth decoding (DDD, arXiv 2409.00142), as the appendix of Learning to Draft (arXiv
/// 2603.01639) sets it: `H = ln(sum over the beam of exp(score))`. After some levels, drafting goes
/// on only while `H` is at least a threshold; after the others it does. The beam is the `W` best
/// candidates of the newest level, whether they can still be verified or not.
///
/// Read so: "after level `n`" is after `n` draft forwards, the root expansion not counted.
/// Candidates below those that have lost their place among the best [`size`](Ddd::size) are not
/// drafted here and are no part of the sum: each is less probable than all that are verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Ddd {
    /// Draft forwards after which `H` is looked at.
    pub checks: Vec<usize>,
    /// The least `H`, in nats, to go on.
    pub threshold: f64,
    /// Most draft forwards.
    pub deepest: usize,
    /// Candidates to verify.
    pub size: usize,
}

impl Default for Ddd {
    fn default() -> Self {
        Self { checks: vec![5, 7, 9], threshold: -0.3, deepest: MAX_DEPTH - 1, size: 60 }
    }
}

impl Controller for Ddd {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        let depth = summary.draft_depth;
        let goes_on = || mass(summary.last_level(), summary.beam_width).ln() >= self.threshold;
        depth < self.deepest && (!self.checks.contains(&depth) || goes_on())
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::summary;

    #[test]
    fn it_goes_on_while_the_beam_is_probable() {
        // A beam of two: the two best of the newest level of four count.
        let at = |depth: usize, best: [f64; 4]| {
            let mut scores = vec![-9.0; 2 + depth * 4];
            let start = scores.len() - 4;
            for (score, probability) in scores[start..].iter_mut().zip(best) {
                *score = probability.ln() as f32;
            }
            Ddd::default().continue_drafting(&summary(2, depth, &scores))
        };
        // exp(-0.3) = 0.7408: 0.5 + 0.25 is above it, 0.5 + 0.24 below.
        let (probable, improbable) = ([0.1, 0.5, 0.1, 0.25], [0.2, 0.5, 0.2, 0.24]);
        assert_eq!([5, 7, 9].map(|depth| at(depth, probable)), [true; 3]);
        assert_eq!([5, 7, 9].map(|depth| at(depth, improbable)), [false; 3]);
        assert_eq!([1, 4, 6, 8, 10].map(|depth| at(depth, improbable)), [true; 5]);
        assert!(!at(11, [0.9, 0.05, 0.0, 0.0]), "at most 11 drafts");
    }
}
