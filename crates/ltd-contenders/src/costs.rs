//! What cycles cost, as the rules that weigh costs read it.

use ltd_cycle::CycleOutcome;
use ltd_policy::{CycleSummary, LatencyModel, LatencyTable, MAX_SIZE};
use serde_json::{Value, json};

use crate::probabilities::{best, level_rows};

/// Measured costs of one machine, and how far they reach: beyond, nothing is known, and more work
/// would seem to cost no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    model: LatencyModel,
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// Most candidates that a verification was measured with.
    pub largest: usize,
    /// Rows of the next root expansion: tokens that the latest cycle with a tree yielded.
    pub rows: usize,
}

impl Costs {
    /// Readies a table.
    ///
    /// # Panics
    /// If the table has [`problems`](LatencyTable::problems).
    pub fn of(table: &LatencyTable) -> Self {
        let largest = table.verify.counts().last().copied().unwrap_or(1);
        Self {
            model: table.model(),
            beam_width: table.identity.beam_width,
            largest: largest.clamp(1, MAX_SIZE),
            rows: 1,
        }
    }

    /// Milliseconds.
    pub fn model(&self) -> &LatencyModel {
        &self.model
    }

    pub(crate) fn observe(&mut self, outcome: &CycleOutcome) {
        if outcome.drafted.is_some() {
            self.rows = outcome.acceptance_length().max(1);
        }
    }

    pub(crate) fn state(&self) -> Value {
        json!(self.rows)
    }

    pub(crate) fn restore(&mut self, state: &Value) {
        self.rows = state.as_u64().map_or(self.rows, |rows| rows as usize);
    }

    /// What a cycle's root expansion and its levels took, in milliseconds.
    fn drafting_ms(&self, summary: &CycleSummary) -> f64 {
        let context = summary.context_length;
        let level = |(level, rows): (usize, usize)| self.model.level_ms(level + 1, rows, context);
        let levels: f64 = level_rows(summary).enumerate().map(level).sum();
        self.model.root_ms(self.rows, context) + levels
    }

    /// Candidates to verify of the tree so far, and the tokens and milliseconds of the cycle.
    pub(crate) fn ending(&self, summary: &CycleSummary) -> Ending {
        let probabilities = best(summary.scores, self.largest);
        self.greedy(&probabilities, self.drafting_ms(summary), summary.context_length)
    }

    /// The same of candidates with these probabilities, best first, after `spent_ms`.
    ///
    /// One more candidate is taken while its tokens per millisecond, `p[n+1] / (verify(n+1) -
    /// verify(n))`, are at least those of the cycle without it, `(1 + p[1] + ... + p[n]) / (spent +
    /// verify(n))`. The first one is always taken. One that costs nothing is taken.
    fn greedy(&self, probabilities: &[f64], spent_ms: f64, context: usize) -> Ending {
        let verify_ms = |size: usize| self.model.verify_ms(size, context);
        let mut tokens = 1.0 + probabilities.first().unwrap_or(&0.0);
        let mut ms = spent_ms + verify_ms(1);
        let mut size = 1;
        for probability in probabilities.iter().take(self.largest).skip(1) {
            let more_ms = verify_ms(size + 1) - verify_ms(size);
            // Without dividing by a time that may be nothing.
            if probability * ms < tokens * more_ms {
                break;
            }
            size += 1;
            tokens += probability;
            ms += more_ms;
        }
        Ending { size, tokens, ms }
    }
}

/// How a cycle ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ending {
    /// Candidates to verify, at least 1.
    pub(crate) size: usize,
    /// Tokens that the cycle is expected to yield, the target's own included.
    pub(crate) tokens: f64,
    /// Milliseconds that it takes.
    pub(crate) ms: f64,
}

#[cfg(test)]
mod tests {
    use ltd_policy::Surface;

    use super::*;
    use crate::made_up::{chain, outcome, summary, table};

    #[test]
    fn drafting_takes_the_root_and_its_levels() {
        let mut costs = Costs::of(&table(1, 2.0, |size| 10.0 + size));
        let scores = chain(&[0.5, 0.5, 0.5]);
        // 1 ms of the root, twice 2 ms.
        assert!((costs.drafting_ms(&summary(1, 2, &scores)) - 5.0).abs() < 1e-6);
        costs.observe(&outcome(1, 2));
        assert_eq!((costs.largest, costs.rows, costs.state()), (64, 3, json!(3)));
    }

    #[test]
    fn later_levels_and_more_rows_cost_what_was_measured() {
        let level = Surface::from_fn(&[1, 12], &[100], |level, _| 10.0 * level);
        let root = Surface::from_fn(&[1, 13], &[100], |rows, _| rows);
        let table = LatencyTable { level, root, ..table(1, 0.0, |size| 10.0 + size) };
        let mut costs = Costs::of(&table);
        let scores = chain(&[0.5, 0.5, 0.5]);
        // 1 ms of a root expansion of one row, 10 and 20 ms of the first two levels.
        assert!((costs.drafting_ms(&summary(1, 2, &scores)) - 31.0).abs() < 1e-4);
        // Four tokens were accepted, the target's own among them; a copy changes nothing.
        costs.observe(&outcome(3, 3));
        costs.observe(&CycleOutcome { drafted: None, ..outcome(0, 7) });
        assert!((costs.drafting_ms(&summary(1, 2, &scores)) - 34.0).abs() < 1e-4);
    }

    #[test]
    fn candidates_are_taken_while_they_raise_the_ratio() {
        let costs = Costs::of(&table(1, 2.0, |size| 4.0 + size));
        // With one: 1.8 tokens in 1 + 5 ms, 0.3 a millisecond. The second brings 0.5 in one, and
        // with it 2.3 / 7 = 0.33; the third, of 0.3, brings less.
        let greedy = costs.greedy(&[0.8, 0.5, 0.3, 0.3], 1.0, 100);
        assert_eq!(greedy.size, 2);
        assert!((greedy.tokens - 2.3).abs() < 1e-6 && (greedy.ms - 7.0).abs() < 1e-5, "{greedy:?}");
        // Verification that costs the same whatever it verifies: all of them.
        let free = Costs::of(&table(1, 2.0, |_| 5.0));
        assert_eq!(free.greedy(&[0.8, 0.5, 1e-9, 1e-9], 1.0, 100).size, 4);
        assert_eq!(free.greedy(&[0.5; 99], 1.0, 100).size, 64, "no more than were measured");
        assert_eq!(free.greedy(&[], 1.0, 100).size, 1);
    }
}
