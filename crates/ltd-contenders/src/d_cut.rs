//! A fixed depth, and a size by marginal cost.

use ltd_cycle::{Controller, CycleOutcome};
use ltd_policy::CycleSummary;
use serde_json::Value;

use crate::costs::Costs;

/// `CaDDTree` (arXiv 2606.01813), D-Cut in engines (vLLM #44885): the draft is as deep as it is,
/// and the number of verified candidates maximises `(1 + p[1] + ... + p[n]) / (draft + verify(n))`.
/// Candidates are taken by descending path probability, the chance that a candidate survives, until
/// one brings fewer tokens per millisecond of verification than the cycle has so far. Where
/// verification costs are convex, that is the maximum.
///
/// Read so: the published drafters propose all levels in one forward. Here a fixed number of levels
/// is drafted one after another, and their measured time is in the ratio. The root expansion is one
/// that reads the tokens of the cycle before.
#[derive(Debug, Clone, PartialEq)]
pub struct DCut {
    /// What cycles cost.
    pub costs: Costs,
    /// Draft forwards after the root expansion.
    pub depth: usize,
}

impl DCut {
    /// The rule on a machine.
    pub fn new(costs: Costs) -> Self {
        Self { costs, depth: 7 }
    }
}

impl Controller for DCut {
    fn size_limit(&self) -> usize {
        self.costs.largest
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.depth
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
    fn the_budget_ends_where_the_ratio_would_fall() {
        // A millisecond of the root, three of levels: 1.9 tokens in 1 + 3 + 1 ms, 0.38 a
        // millisecond. Then 0.72 in one, 2.62 / 6 = 0.437; 0.504 in one, 3.124 / 7 = 0.446; and
        // 0.353 in one, which is less.
        let mut rule = DCut::new(Costs::of(&table(1, 1.0, |size| size)));
        let scores = chain(&[0.9, 0.8, 0.7, 0.7]);
        assert_eq!(rule.verification_size(&summary(1, 3, &scores)), 3);
        // Steps of two candidates: the second one is free, the third takes 2 ms.
        let mut rule = DCut::new(Costs::of(&table(1, 1.0, |size| (size / 2.0).ceil() * 2.0)));
        assert_eq!(rule.verification_size(&summary(1, 3, &scores)), 2, "0.504 / 2 is less than 2.62 / 6");
    }

    #[test]
    fn it_drafts_as_deep_as_it_is_told() {
        let mut rule = DCut::new(Costs::of(&table(1, 1.0, |size| size)));
        let scores = chain(&[0.1; 9]);
        assert!(rule.continue_drafting(&summary(1, 6, &scores[..7])));
        assert!(!rule.continue_drafting(&summary(1, 7, &scores[..8])));
    }
}
