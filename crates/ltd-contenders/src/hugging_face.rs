//! The heuristic of assisted generation.

use ltd_cycle::{Controller, CycleOutcome, MAX_DEPTH};
use ltd_policy::CycleSummary;
use serde_json::{Value, json};

/// The schedule `heuristic` of assisted generation in Hugging Face's transformers
/// (`num_assistant_tokens_schedule`): `n <- n + 2` if all drafted tokens were accepted, else `n <-
/// max(1, n - 1)`. It begins with 5.
///
/// Read so: `n` are levels of the tree, `D + 1` (see [the crate](crate)). All were accepted if the
/// accepted path is as long as the tree that was drafted is deep, also where that is less than `n`.
/// The published code knows no most. Here `n` stays within what the engine drafts, as it would take
/// as many cycles to come down again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HuggingFace {
    /// Levels to draft in the next cycle, `n`.
    pub levels: usize,
    /// Levels more after a cycle that accepted all.
    pub rise: usize,
    /// Levels fewer after any other.
    pub fall: usize,
    /// Most levels.
    pub most: usize,
    /// Candidates to verify.
    pub size: usize,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self { levels: 5, rise: 2, fall: 1, most: MAX_DEPTH, size: 60 }
    }
}

impl Controller for HuggingFace {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.levels
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        let Some(accepted) = outcome.drafted else { return };
        let next = if accepted > outcome.draft_depth {
            self.levels + self.rise
        } else {
            self.levels.saturating_sub(self.fall)
        };
        self.levels = next.min(self.most).max(1);
    }

    fn state(&self) -> Value {
        json!(self.levels)
    }

    fn restore(&mut self, state: &Value) {
        self.levels = state.as_u64().map_or(self.levels, |levels| levels as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::outcome;

    #[test]
    fn it_rises_by_two_and_falls_by_one() {
        let mut rule = HuggingFace::default();
        let mut after = |depth, accepted| {
            rule.observe(&outcome(depth, accepted));
            rule.levels
        };
        assert_eq!(after(4, 5), 7, "five levels, five tokens");
        assert_eq!(after(6, 6), 6, "seven levels, six tokens");
        assert_eq!((after(5, 0), after(4, 1), after(3, 3), after(2, 2)), (5, 4, 3, 2));
        assert_eq!((after(1, 1), after(0, 0)), (1, 1));
        assert_eq!(after(0, 1), 3);
        let mut highest = HuggingFace { levels: 12, ..HuggingFace::default() };
        highest.observe(&outcome(11, 12));
        assert_eq!(highest.levels, 12);
    }

    #[test]
    fn copies_say_nothing_of_trees() {
        let mut rule = HuggingFace::default();
        rule.observe(&CycleOutcome { drafted: None, ..outcome(0, 8) });
        assert_eq!(rule, HuggingFace::default());
    }
}
