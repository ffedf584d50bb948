//! Marginal tokens over marginal milliseconds, for depth and size.

use ltd_cycle::{Controller, CycleOutcome, MAX_DEPTH};
use ltd_policy::CycleSummary;
use serde_json::Value;

use crate::costs::{Costs, Ending};
use crate::probabilities::{above_last_level, mass};

/// The rule of SMART (arXiv 2604.09731) on measured costs: a tree grows only while what is added
/// brings more tokens per millisecond than the tree has, `R = (1 + sum of the path probabilities of
/// the verified candidates) / (milliseconds of root expansion, levels and verification)`.
///
/// - size: the next best candidate is verified while `p / (verify(n + 1) - verify(n)) >= R`;
/// - depth: one more level is drafted while `gain / (level(D + 1) + verify(n + k) - verify(n)) >
/// R`, where `n` is the size by the rule above.
///
/// The paper expands single candidates of a tree whose probabilities are known. A level is drafted
/// as a whole here, before its probabilities are known, so its gain is estimated: `gain = F * B[D]
/// / B[D - 1]`, where `F` is the mass of the `k` candidates that it would expand and `B` that of
/// the best `W` of a level, 1 of the root; the quotient is at most 1. That is the mass of the new
/// level's beam if masses go on falling as they last did. With it, `k` more candidates are taken to
/// be verified.
///
/// Decisions are free. The root expansion is one that reads the tokens of the cycle before.
#[derive(Debug, Clone, PartialEq)]
pub struct Smart {
    /// What cycles cost.
    pub costs: Costs,
    /// Most draft forwards.
    pub deepest: usize,
}

impl Smart {
    /// The rule on a machine.
    pub fn new(costs: Costs) -> Self {
        Self { costs, deepest: MAX_DEPTH }
    }

    /// Tokens that one more level is expected to bring.
    fn gain(summary: &CycleSummary) -> f64 {
        let width = summary.beam_width;
        let newest = mass(summary.last_level(), width);
        let before = match summary.draft_depth.checked_sub(1) {
            None => 1.0,
            Some(draft_depth) => {
                let scores = above_last_level(summary);
                mass(CycleSummary { scores, draft_depth, ..*summary }.last_level(), width)
            }
        };
        let falls = if before > 0.0 { (newest / before).min(1.0) } else { 0.0 };
        mass(summary.last_level(), summary.frontier) * falls
    }
}

impl Controller for Smart {
    fn size_limit(&self) -> usize {
        self.costs.largest
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        if summary.draft_depth >= self.deepest {
            return false;
        }
        let Ending { size, tokens, ms } = self.costs.ending(summary);
        let (model, context, rows) = (self.costs.model(), summary.context_length, summary.frontier);
        let more = (size + rows).min(self.costs.largest);
        let verify_ms = model.verify_ms(more, context) - model.verify_ms(size, context);
        let level_ms = model.level_ms(summary.draft_depth + 1, rows, context);
        Self::gain(summary) * ms > tokens * (level_ms + verify_ms)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.costs.ending(summary).size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        self.costs.observe(outcome);
    }

    fn state(&self) -> Value {
        self.costs.state()
    }

    fn restore(&mut self, state: &Value) {
        self.costs.restore(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{chain, summary, table};

    #[test]
    fn the_gain_of_a_level_is_what_the_last_ones_promise() {
        // Beams of 0.9 and 0.45; the quotient is a half.
        let scores = [0.6f32, 0.3, 0.3, 0.05, 0.15, 0.1].map(f32::ln);
        assert!((Smart::gain(&summary(2, 1, &scores)) - 0.225).abs() < 1e-6);
        let narrowed = CycleSummary { frontier: 1, ..summary(2, 1, &scores) };
        assert!((Smart::gain(&narrowed) - 0.15).abs() < 1e-6);
        assert!((Smart::gain(&summary(2, 0, &scores[..2])) - 0.81).abs() < 1e-6, "the root's mass is 1");
    }

    #[test]
    fn a_level_is_drafted_while_it_raises_the_ratio() {
        // After a level of 0.8: 1.8 tokens in 1 + 10 ms, 0.164 a millisecond. Another one is taken
        // to bring 0.8 * 0.8 = 0.64.
        let goes_on = |level_ms, extra_ms: f64| {
            let table = table(1, level_ms, |size| 10.0 + extra_ms * (size - 1.0));
            let mut rule = Smart::new(Costs::of(&table));
            rule.continue_drafting(&summary(1, 0, &chain(&[0.8])))
        };
        assert!(goes_on(3.8, 0.0), "0.64 / 3.8 = 0.168");
        assert!(!goes_on(4.0, 0.0), "0.64 / 4 = 0.16");
        assert!(!goes_on(3.8, 0.2), "0.64 / (3.8 + 0.2), the candidate to verify");
        let mut deepest = Smart { deepest: 0, ..Smart::new(Costs::of(&table(1, 0.1, |_| 10.0))) };
        assert!(!deepest.continue_drafting(&summary(1, 0, &chain(&[0.8]))));
    }

    #[test]
    fn what_is_verified_raises_the_ratio_of_the_whole_cycle() {
        // A level of 2 ms: with one candidate 1.9 tokens in 1 + 2 + 5 ms, 0.2375 a millisecond. The
        // second brings 0.27 in a millisecond.
        let mut rule = Smart::new(Costs::of(&table(1, 2.0, |size| 4.0 + size)));
        assert_eq!(rule.verification_size(&summary(1, 1, &chain(&[0.9, 0.3]))), 2);
        assert_eq!(rule.verification_size(&summary(1, 1, &chain(&[0.9, 0.2]))), 1);
    }
}
