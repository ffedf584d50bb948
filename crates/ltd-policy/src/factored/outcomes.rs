//! What the predictor of a source tells, and what that says of chains.

use serde::{Deserialize, Serialize};

use super::FactoredActions;
use crate::action::MAX_SIZE;
use crate::network::{Frozen, Outputs};
use crate::observation::Sight;
use crate::source::SourceActions;

/// What the predictor of a factored policy's source tells: how far chains are right, and draft
/// tokens that are accepted of each tree, and of each tree that is merged with a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceOutcomes {
    /// The chains.
    pub source: SourceActions,
    /// The trees.
    pub trees: FactoredActions,
    /// Places of a chain of which it tells whether a token there is right, if those before it are;
    /// from 0 (packages before version 7) it tells how many tokens of each chain are accepted.
    #[serde(default)]
    pub places: usize,
}

impl SourceOutcomes {
    /// Outputs about copies.
    pub(super) fn copy_outputs(&self) -> usize {
        if self.places > 0 { self.places } else { self.source.chains.len() }
    }

    /// The chains, and how many of their tokens are accepted, by the outputs about copies, whose
    /// log-odds are taken to be less by `caution`.
    pub(super) fn of_chains<'o>(
        &'o self,
        outputs: &'o [f32],
        caution: f32,
    ) -> impl Iterator<Item = (usize, f32)> + 'o {
        let (mut place, mut survives, mut accepted) = (0, 1.0, 0.0);
        self.source.chains.iter().enumerate().map(move |(number, &chain)| {
            if self.places == 0 {
                return (chain, outputs[number]);
            }
            // Chains are ascending: each goes on where the one before it ends.
            for logit in &outputs[place..chain] {
                survives *= 1.0 / (1.0 + (caution - logit).exp());
                accepted += survives;
            }
            place = chain;
            (chain, accepted)
        })
    }
}

/// A predictor of what copies and trees would have accepted, from what is known before a cycle. Its
/// outputs are the log-odds that the token at each place of a chain is right if those before it
/// are; then the expected numbers of accepted tokens per final depth and size of a tree, and the
/// same of merged trees where there are any, `[places + stops * sizes (+ stops * sizes)]`. (Of 0
/// places: the expected numbers per chain first.)
pub type FrozenSourcePredictor = Frozen<SourceOutcomes>;

impl Outputs for SourceOutcomes {
    fn kind_name(&self) -> String {
        "factored-source".to_owned()
    }

    fn output_count(&self) -> usize {
        let kinds_of_trees = 1 + usize::from(self.source.merged.is_some());
        self.copy_outputs() + kinds_of_trees * self.trees.output_count()
    }

    fn problem(&self, depth_cap: usize) -> Option<String> {
        if let Some(problem) = self.source.problem() {
            return Some(format!("source {problem}"));
        }
        let longest = self.source.chains[self.source.chains.len() - 1];
        if self.places > 0 && !(longest..=MAX_SIZE).contains(&self.places) {
            return Some(format!("places is {}, must be 0 or {longest}..={MAX_SIZE}", self.places));
        }
        self.trees.problem(depth_cap)
    }

    fn sees(&self) -> Sight {
        Sight::Sequence
    }
}
