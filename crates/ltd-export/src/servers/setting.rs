//! Settings that do not look at the text, or only at what was accepted lately.

use std::fmt::{Display, Formatter};

use ltd_policy::{CopyRule, tree_candidates};

/// Trees of one shape. Those of beam width 1 are chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trees {
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// Draft forwards after the root expansion.
    pub depth: usize,
    /// Candidates to verify, the root not counted.
    pub size: usize,
}

impl Trees {
    /// Levels of the tree. Servers count these, where depths count what follows the root expansion.
    pub fn levels(&self) -> usize {
        self.depth + 1
    }

    /// Candidates that are verified: a tree may hold fewer than were asked for.
    pub fn verified(&self) -> usize {
        self.size.min(tree_candidates(self.beam_width, self.depth))
    }

    /// Tokens of the chain, if it is one. What cannot be verified is not drafted.
    pub fn chain(&self) -> Option<usize> {
        (self.beam_width == 1).then(|| self.verified())
    }
}

/// What a server can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// A tree in every cycle.
    Trees(Trees),
    /// Copies by a rule, and a tree in every other cycle.
    CopiesAndTrees(CopyRule, Trees),
    /// Copies by a rule, and plain decoding in every other cycle.
    Copies(CopyRule),
    /// Chains of one of these lengths, ascending, by a moving average of what was accepted.
    AdaptiveChains(Vec<usize>),
}

impl Setting {
    /// A tree, with copies where there is a rule.
    pub fn of(trees: Trees, rule: Option<CopyRule>) -> Self {
        rule.map_or(Self::Trees(trees), |rule| Self::CopiesAndTrees(rule, trees))
    }
}

impl Display for Trees {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        if let Some(chain) = self.chain() {
            return write!(f, "chains of {}", ltd_console::count(chain, "token"));
        }
        let Self { beam_width, depth, .. } = self;
        write!(f, "trees of depth {depth} and beam width {beam_width}, {} verified", self.verified())
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        match self {
            Self::Trees(trees) => write!(f, "{trees}"),
            Self::CopiesAndTrees(rule, trees) => write!(f, "copies of {rule}, else {trees}"),
            Self::Copies(rule) => write!(f, "copies of {rule}, else plain decoding"),
            Self::AdaptiveChains(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
                write!(f, "chains of {} tokens by what was accepted lately", lengths.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_verifies_what_it_holds_and_a_chain_drafts_what_it_verifies() {
        let trees = |beam_width, depth, size| Trees { beam_width, depth, size };
        let shape = |trees: Trees| (trees.levels(), trees.verified(), trees.chain());
        assert_eq!(shape(trees(10, 3, 24)), (4, 24, None));
        // 3 + 1 * 3 * 3 candidates.
        assert_eq!(shape(trees(3, 1, 24)), (2, 12, None));
        assert_eq!(shape(trees(1, 3, 24)), (4, 4, Some(4)));
        assert_eq!(shape(trees(1, 6, 2)), (7, 2, Some(2)));
    }
}
