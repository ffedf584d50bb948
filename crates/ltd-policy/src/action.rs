//! What a policy can choose, and when it is asked.
//!
//! ```
//! use ltd_policy::action::{DepthActions, DepthRule, SizeActions};
//!
//! // Between one and four drafts; asked after each second level.
//! let depth = DepthActions { min_depth: 1, max_depth: 4, decide_every: 2 };
//! let rules = [0, 1, 2, 3, 4].map(|drafted| depth.rule_at(drafted));
//! use DepthRule::{Ask, Continue, Stop};
//! assert_eq!(rules, [Continue, Ask, Continue, Ask, Stop]);
//!
//! let size = SizeActions { sizes: vec![4, 16, 60] };
//! assert_eq!(size.largest(), 60);
//! ```

use serde::{Deserialize, Serialize};

/// Which decision a policy makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// When to stop drafting.
    Depth,
    /// How many candidates to verify.
    Size,
    /// What to draft from.
    Source,
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Depth => "depth",
            Self::Size => "size",
            Self::Source => "source",
        })
    }
}

/// Most candidates that can be asked for, whatever a tree holds: more than any hardware verifies
/// for free.
pub const MAX_SIZE: usize = 4096;

/// Candidates of a tree of a depth, `W + D * W * W`; if there are too many to count, the highest
/// number there is.
pub fn tree_candidates(beam_width: usize, depth: usize) -> usize {
    depth.saturating_mul(beam_width).saturating_mul(beam_width).saturating_add(beam_width)
}

/// When the depth policy is asked, and between which depths it may stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DepthActions {
    /// Draft forwards that are always made. 0 lets the policy verify the root's own candidates.
    pub min_depth: usize,
    /// Draft forwards at which drafting always ends, at most 12.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub max_depth: usize,
    /// Levels between decisions: 1 asks after each level.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub decide_every: usize,
}

impl Default for DepthActions {
    fn default() -> Self {
        Self { min_depth: 0, max_depth: 12, decide_every: 1 }
    }
}

/// What happens after a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepthRule {
    /// Draft one more level, whatever the policy thinks.
    Continue,
    /// Drafting is over.
    Stop,
    /// Both are possible: ask.
    Ask,
}

impl DepthActions {
    /// Number of actions: 0 = stop, 1 = continue.
    pub const COUNT: usize = 2;
    /// Action that ends drafting.
    pub const STOP: usize = 0;
    /// Action that drafts one more level.
    pub const CONTINUE: usize = 1;

    /// What happens at a depth: the one rule of training, evaluation and serving. A policy is asked
    /// only where both actions are possible, so that no forced action is ever learned from.
    pub fn rule_at(&self, depth: usize) -> DepthRule {
        if depth >= self.max_depth {
            DepthRule::Stop
        } else if depth >= self.min_depth && (depth - self.min_depth).is_multiple_of(self.decide_every) {
            DepthRule::Ask
        } else {
            DepthRule::Continue
        }
    }

    /// All impossible values, as `(key, problem)`.
    pub fn problems(&self, depth_limit: usize) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.max_depth == 0 || self.max_depth > depth_limit {
            problems.push(("max_depth", format!("is {}, must be 1..={depth_limit}", self.max_depth)));
        }
        if self.min_depth >= self.max_depth {
            let (min, max) = (self.min_depth, self.max_depth);
            problems.push(("min_depth", format!("is {min}, must be below max_depth = {max}")));
        }
        if self.decide_every == 0 {
            problems.push(("decide_every", "must be at least 1".to_owned()));
        }
        problems
    }
}

/// The verification sizes among which the size policy chooses, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SizeActions {
    /// Candidates to verify, per action.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 2), inner(range(min = 1, max = MAX_SIZE)), extend("uniqueItems" = true))
    )]
    pub sizes: Vec<usize>,
}

impl SizeActions {
    /// The largest size.
    ///
    /// # Panics
    /// If there is none, which is a [problem](SizeActions::problem).
    pub fn largest(&self) -> usize {
        *self.sizes.last().expect("invariant: a table without problems has sizes")
    }

    /// What is impossible about the table, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.sizes.len() < 2 {
            return Some(format!("has {} sizes, must have at least 2", self.sizes.len()));
        }
        if self.sizes[0] == 0 || !self.sizes.is_sorted_by(|a, b| a < b) {
            return Some(format!("is {:?}, must be strictly ascending and start at 1 or more", self.sizes));
        }
        if self.largest() > MAX_SIZE {
            return Some(format!("has {}, must be at most {MAX_SIZE}", self.largest()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_asked_only_where_both_actions_are_possible() {
        let actions = DepthActions { min_depth: 2, max_depth: 9, decide_every: 3 };
        let asked: Vec<usize> = (0..14).filter(|&depth| actions.rule_at(depth) == DepthRule::Ask).collect();
        assert_eq!(asked, [2, 5, 8]);
        assert!((0..2).all(|depth| actions.rule_at(depth) == DepthRule::Continue));
        assert!((9..14).all(|depth| actions.rule_at(depth) == DepthRule::Stop));
    }

    #[test]
    fn impossible_tables_are_named() {
        let actions = DepthActions { min_depth: 13, max_depth: 13, decide_every: 0 };
        let keys: Vec<_> = actions.problems(12).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["max_depth", "min_depth", "decide_every"]);
        assert!(DepthActions::default().problems(12).is_empty());
        for sizes in [vec![], vec![4], vec![0, 4], vec![8, 4], vec![4, 4], vec![4, MAX_SIZE + 1]] {
            assert!(SizeActions { sizes }.problem().is_some());
        }
        assert!(SizeActions { sizes: vec![4, 8] }.problem().is_none());
        assert_eq!((tree_candidates(10, 12), tree_candidates(usize::MAX, 2)), (1210, usize::MAX));
    }
}
