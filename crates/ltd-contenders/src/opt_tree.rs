//! OPT-Tree.

use ltd_cycle::Controller;
use ltd_policy::CycleSummary;

use crate::probabilities::{above_last_level, mass};

/// OPT-Tree (arXiv 2406.17276): with `E(n)` the sum of the path probabilities of the best `n`
/// candidates, which is the expected number of accepted draft tokens, drafting goes on while the
/// newest level has raised `E(n)` by more than a threshold, and the tree has fewer levels than a
/// most. The best `n` are verified. Values are those of the project's `README.md`
/// (github.com/Jikai0Wang/OPT-Tree).
///
/// Levels are counted as the published code does, the root expansion's included: `D + 1`. There is
/// no tree before the root expansion, whose `E(n)` is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptTree {
    /// Candidates to verify, `n`.
    pub nodes: usize,
    /// Expected tokens that a level must bring.
    pub threshold: f64,
    /// Most levels.
    pub most: usize,
    /// Which of the two readings.
    pub reading: Reading,
}

/// What the newest level is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As the paper says: the level just drafted.
    Paper,
    /// As the published code does: its sum leaves out the level just drafted, so that it stops one
    /// level late, and always drafts after the root expansion. It does not verify that last level;
    /// here it is among the candidates.
    Code,
}

impl OptTree {
    /// The published values in a reading.
    pub fn new(reading: Reading) -> Self {
        Self { nodes: 60, threshold: 0.5, most: 10, reading }
    }
}

impl Controller for OptTree {
    fn size_limit(&self) -> usize {
        self.nodes
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        if summary.draft_depth + 1 >= self.most {
            return false;
        }
        let before = above_last_level(summary);
        let (from, to) = match (self.reading, summary.draft_depth.checked_sub(1)) {
            (Reading::Paper, _) => (before, summary.scores),
            (Reading::Code, None) => return true,
            (Reading::Code, Some(draft_depth)) => {
                let earlier = CycleSummary { scores: before, draft_depth, ..*summary };
                (above_last_level(&earlier), before)
            }
        };
        mass(to, self.nodes) - mass(from, self.nodes) > self.threshold
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{chain, summary};

    /// Whether it goes on after each level of a chain.
    fn goes_on(mut rule: OptTree, probabilities: &[f64]) -> Vec<bool> {
        let scores = chain(probabilities);
        let after = |depth: usize| rule.continue_drafting(&summary(1, depth, &scores[..=depth]));
        (0..scores.len()).map(after).collect()
    }

    #[test]
    fn it_stops_where_a_level_brings_little() {
        // Paths of 0.9, 0.81, 0.486 and 0.4374: the third level brings less than 0.5.
        let chain = [0.9, 0.9, 0.6, 0.9];
        assert_eq!(goes_on(OptTree::new(Reading::Paper), &chain), [true, true, false, false]);
        assert_eq!(goes_on(OptTree::new(Reading::Code), &chain), [true, true, true, false]);
        assert_eq!(goes_on(OptTree::new(Reading::Paper), &[0.4]), [false]);
        assert_eq!(goes_on(OptTree::new(Reading::Code), &[0.4, 0.9]), [true, false]);
    }

    #[test]
    fn only_the_best_nodes_count_and_levels_have_a_most() {
        // Best two after the root expansion: 0.5 + 0.4. The level brings one of 0.45: 0.05 more.
        let scores = [0.5f32, 0.4, 0.45, 0.05, 0.3, 0.1].map(f32::ln);
        let two = |threshold| OptTree { nodes: 2, threshold, ..OptTree::new(Reading::Paper) };
        assert!(!two(0.06).continue_drafting(&summary(2, 1, &scores)));
        assert!(two(0.04).continue_drafting(&summary(2, 1, &scores)));
        let certain = goes_on(OptTree::new(Reading::Paper), &[1.0; 11]);
        assert_eq!(certain.iter().position(|goes_on| !goes_on), Some(9), "ten levels");
    }
}
