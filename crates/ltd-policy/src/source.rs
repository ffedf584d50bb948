//! What a cycle drafts from, decided before any of its forwards.
//!
//! ```
//! use ltd_policy::source::{CopyRule, DraftSource, SourceSummary};
//!
//! // The latest five tokens were said before: copy what followed them.
//! let rule = CopyRule { match_length: 4, chain: 8 };
//! let summary = SourceSummary { match_length: 5, ..SourceSummary::default() };
//! assert_eq!(rule.source(&summary), DraftSource::Copy { chain: 8 });
//! // Three were: the draft model's tree.
//! let summary = SourceSummary { match_length: 3, ..SourceSummary::default() };
//! assert_eq!(rule.source(&summary), DraftSource::Tree);
//! ```

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::action::MAX_SIZE;
use crate::calibration::Calibration;

/// Latest tokens that are compared with what was said before.
pub const LONGEST_MATCH: usize = 16;

/// What a cycle drafts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DraftSource {
    /// The draft model: a tree.
    #[default]
    Tree,
    /// What was said before: a chain of tokens, for which the draft model is not asked. Where
    /// nothing was, and for a chain of none, the cycle is a step of plain decoding.
    Copy {
        /// Tokens to copy.
        chain: usize,
    },
    /// Both: a tree, of which the most probable candidates are verified together with the most
    /// probable tokens of a chain. Where nothing was said before, a tree.
    Merged {
        /// Tokens to copy at most.
        chain: usize,
    },
}

impl DraftSource {
    /// Tokens that its trees are merged with at most; none if they are not merged.
    pub fn merged_chain(self) -> Option<usize> {
        match self {
            Self::Merged { chain } => Some(chain),
            Self::Tree | Self::Copy { .. } => None,
        }
    }
}

/// What the draft model thinks of the first token that would be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Agreement {
    /// It is not among the candidates of the root expansion.
    Absent,
    /// It is among them.
    Listed,
    /// It is the most probable one.
    First,
}

impl Agreement {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Absent, Self::Listed, Self::First];

    /// What a draft model thinks of a token whose candidates after the root are these, the most
    /// probable first.
    pub fn of(token: u32, after_root: &[u32]) -> Self {
        match after_root.iter().position(|&candidate| candidate == token) {
            None => Self::Absent,
            Some(0) => Self::First,
            Some(_) => Self::Listed,
        }
    }
}

/// What is known of a sequence before a cycle begins, or once the root expansion is made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SourceSummary {
    /// Tokens whose keys and values the target has cached, `L`.
    pub context_length: usize,
    /// Latest tokens, the root included, that were said before, up to [`LONGEST_MATCH`].
    pub match_length: usize,
    /// Earlier occurrences of these tokens.
    pub occurrences: usize,
    /// How many of them were followed by the same token as the latest one.
    pub agreeing: usize,
    /// Tokens from the latest of them to the present.
    pub distance: usize,
    /// Whether it is in the prompt.
    pub in_prompt: bool,
    /// Tokens that the draft has not read: its next root expansion reads them all.
    pub unread: usize,
    /// Mean of the copied tokens that the latest copying cycles accepted, the last weighing most.
    pub copied_lately: f32,
    /// The same of the latest cycles with a tree.
    pub drafted_lately: f32,
    /// What the draft model thinks of the first token to copy; none before the root expansion, and
    /// where nothing matches.
    pub agreement: Option<Agreement>,
    /// The token that the cycle begins with.
    pub root: u32,
    /// The first token to copy; none where nothing matches.
    pub copied: Option<u32>,
    /// The shares of copies of that token, and after this root, that were right in recordings: of a
    /// policy that [knows](crate::TokenRecord) them, where something matches.
    pub trust: Option<[f32; 2]>,
}

/// What a source policy chooses among: the draft model's tree, a chain of tokens to copy, or both
/// in one tree. Action 0 is the tree, the next ones are the chains, the last one merges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "ActionsFile", into = "ActionsFile")]
pub struct SourceActions {
    /// Tokens to copy, ascending; a chain of 0 tokens is a step of plain decoding.
    pub chains: Vec<usize>,
    /// How trees are merged with chains, if they are.
    pub merged: Option<Merged>,
}

/// How trees are merged with chains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merged {
    /// Tokens to copy at most.
    pub chain: usize,
    /// How probable the candidates of either source are.
    pub calibration: Calibration,
}

/// [`SourceActions`] as files have them: those that never merge are their chains alone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected chains, or chains and merged trees")]
enum ActionsFile {
    Chains(Vec<usize>),
    Merging(Merging),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Merging {
    chains: Vec<usize>,
    merged: Merged,
}

impl From<ActionsFile> for SourceActions {
    fn from(file: ActionsFile) -> Self {
        match file {
            ActionsFile::Chains(chains) => Self { chains, merged: None },
            ActionsFile::Merging(Merging { chains, merged }) => Self { chains, merged: Some(merged) },
        }
    }
}

impl From<SourceActions> for ActionsFile {
    fn from(actions: SourceActions) -> Self {
        let SourceActions { chains, merged } = actions;
        match merged {
            None => Self::Chains(chains),
            Some(merged) => Self::Merging(Merging { chains, merged }),
        }
    }
}

impl SourceActions {
    /// Number of the action that drafts a tree.
    pub const TREE: usize = 0;

    /// Number of actions.
    pub fn count(&self) -> usize {
        1 + self.chains.len() + usize::from(self.merged.is_some())
    }

    /// What an action drafts from.
    ///
    /// # Panics
    /// If there is no such action.
    pub fn source(&self, action: usize) -> DraftSource {
        match (action.checked_sub(1), &self.merged) {
            (None, _) => DraftSource::Tree,
            (Some(merging), Some(merged)) if merging == self.chains.len() => {
                DraftSource::Merged { chain: merged.chain }
            }
            (Some(chain), _) => DraftSource::Copy { chain: self.chains[chain] },
        }
    }

    /// Whether there is a choice: something can be copied, or plain decoding is one of the actions.
    /// The one rule of training, evaluation and serving: no forced action is ever learned from.
    pub fn asks(&self, summary: &SourceSummary) -> bool {
        summary.match_length > 0 || self.chains[0] == 0
    }

    /// What is impossible about the table, if anything.
    pub fn problem(&self) -> Option<String> {
        let Self { chains, merged } = self;
        if chains.is_empty() || !chains.is_sorted_by(|a, b| a < b) {
            return Some(format!("is {chains:?}, must be strictly ascending and have a chain"));
        }
        let longest = chains[chains.len() - 1];
        if longest > MAX_SIZE || longest == 0 {
            return Some(format!("has at most {longest}, must be 1..={MAX_SIZE}"));
        }
        let Merged { chain, calibration } = merged.as_ref()?;
        if !(1..=MAX_SIZE).contains(chain) {
            return Some(format!("merges chains of {chain} tokens, must be 1..={MAX_SIZE}"));
        }
        let (field, problem) = calibration.problem()?;
        Some(format!("has a calibration whose {field} {problem}"))
    }
}

/// Copies where enough of the latest tokens were said before; the rule of the engines that copy
/// (prompt lookup, SAM-Decoding 2411.10666).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRule {
    /// Latest tokens that must have been said before, at least 1.
    pub match_length: usize,
    /// Tokens to copy.
    pub chain: usize,
}

impl std::fmt::Display for CopyRule {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let tokens = if self.chain == 1 { "token" } else { "tokens" };
        write!(f, "{} {tokens} where {} match", self.chain, self.match_length)
    }
}

impl CopyRule {
    /// What a cycle drafts from.
    pub fn source(&self, summary: &SourceSummary) -> DraftSource {
        if summary.match_length >= self.match_length {
            DraftSource::Copy { chain: self.chain }
        } else {
            DraftSource::Tree
        }
    }

    /// The first impossible number of the rule, if there is one: its field, what is possible, and
    /// the number.
    pub fn problem(&self) -> Option<(&'static str, RangeInclusive<usize>, usize)> {
        let Self { match_length, chain } = *self;
        let fields = [("match_length", 1..=LONGEST_MATCH, match_length), ("chain", 1..=MAX_SIZE, chain)];
        fields.into_iter().find(|(_, possible, number)| !possible.contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_tables_and_rules_are_named() {
        for chains in [vec![], vec![0], vec![4, 4], vec![8, 2], vec![1, MAX_SIZE + 1]] {
            assert!(SourceActions { chains, merged: None }.problem().is_some());
        }
        for chains in [vec![1], vec![0, 8], vec![MAX_SIZE]] {
            assert_eq!(SourceActions { chains, merged: None }.problem(), None);
        }
        let merging = |chain, calibration| SourceActions {
            chains: vec![4],
            merged: Some(Merged { chain, calibration }),
        };
        assert_eq!(merging(8, Calibration::default()).problem(), None);
        for chain in [0, MAX_SIZE + 1] {
            let problem = merging(chain, Calibration::default()).problem().expect("a problem");
            assert!(problem.contains("merges chains"), "{problem}");
        }
        let rising = Calibration { drafted: vec![0.5; 3], ..Calibration::default() };
        let problem = merging(8, rising).problem().expect("a problem");
        assert!(problem.contains("whose drafted has 3 numbers"), "{problem}");
        for (match_length, chain, field) in
            [(0, 4, "match_length"), (17, 4, "match_length"), (1, 0, "chain"), (1, MAX_SIZE + 1, "chain")]
        {
            assert_eq!(CopyRule { match_length, chain }.problem().expect("a problem").0, field);
        }
        assert_eq!(CopyRule { match_length: 16, chain: MAX_SIZE }.problem(), None);
    }

    #[test]
    fn a_draft_model_agrees_with_its_candidates() {
        let of = |token| Agreement::of(token, &[7, 5, 9]);
        assert_eq!([7, 5, 9, 4].map(of).map(|agreement| agreement as usize), [2, 1, 1, 0]);
    }

    #[test]
    fn a_policy_is_asked_where_there_is_a_choice() {
        let nothing = SourceSummary::default();
        let something = SourceSummary { match_length: 1, ..nothing };
        let copies = SourceActions { chains: vec![4, 8], merged: None };
        assert!(!copies.asks(&nothing) && copies.asks(&something));
        assert!(SourceActions { chains: vec![0, 4], merged: None }.asks(&nothing));
        let sources: Vec<_> = (0..copies.count()).map(|action| copies.source(action)).collect();
        let copy = |chain| DraftSource::Copy { chain };
        assert_eq!(sources, [DraftSource::Tree, copy(4), copy(8)]);
        let merged = Some(Merged { chain: 12, calibration: Calibration::default() });
        let both = SourceActions { merged, ..copies.clone() };
        assert_eq!((both.count(), both.source(2)), (4, copy(8)));
        assert_eq!(both.source(3), DraftSource::Merged { chain: 12 });
        for actions in [copies, both] {
            let json = serde_json::to_string(&actions).expect("plain data");
            assert_eq!(serde_json::from_str::<SourceActions>(&json).expect("the same"), actions);
        }
        assert!(serde_json::from_str::<SourceActions>(r#"{"chains": [4], "merged": null}"#).is_err());
    }
}
