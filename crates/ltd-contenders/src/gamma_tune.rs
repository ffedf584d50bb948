//! `GammaTune`.

use ltd_cycle::{Controller, CycleOutcome};
use ltd_policy::CycleSummary;
use serde_json::{Value, from_value, json};

/// `GammaTune` (arXiv 2504.00030). With `A` accepted draft tokens of `gamma` drafted ones:
///
/// - all accepted: `gamma <- clip(A + delta, least, most)`, and the average stays;
/// - else: `average <- clip((1 - eta) * average + eta * A, least, most)`, and `gamma <-
///   ceil(average)`.
///
/// Read so: `gamma` are levels of the tree, `D + 1` (see [the crate](crate)), and all are accepted
/// if the accepted path is as long as the tree that was drafted is deep. Limits that are no whole
/// numbers are rounded up, as the average is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GammaTune {
    /// Levels to draft in the next cycle.
    pub gamma: usize,
    /// The average of accepted draft tokens.
    pub average: f64,
    /// Weight of the latest cycle in the average, `eta`.
    pub eta: f64,
    /// Levels beyond those that were all accepted, `delta`.
    pub delta: f64,
    /// Fewest levels.
    pub least: f64,
    /// Most levels.
    pub most: f64,
    /// Candidates to verify.
    pub size: usize,
}

impl Default for GammaTune {
    fn default() -> Self {
        Self { gamma: 3, average: 3.0, eta: 0.3, delta: 2.0, least: 1.0, most: 10.0, size: 60 }
    }
}

impl GammaTune {
    /// The setting of Learning to Draft (arXiv 2603.01639): an `eta` of 0.2, and limits of half and
    /// 1.5 times a default number of levels, with which it begins.
    pub fn ltd(levels: usize) -> Self {
        let average = levels as f64;
        let (least, most) = ((0.5 * average).max(1.0), 1.5 * average);
        Self { gamma: levels, average, eta: 0.2, least, most, ..Self::default() }
    }

    fn clip(&self, levels: f64) -> f64 {
        levels.min(self.most).max(self.least)
    }
}

impl Controller for GammaTune {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.gamma
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        let Some(drafted) = outcome.drafted else { return };
        let accepted = drafted as f64;
        let gamma = if drafted > outcome.draft_depth {
            self.clip(accepted + self.delta)
        } else {
            self.average = self.clip((1.0 - self.eta) * self.average + self.eta * accepted);
            self.average
        };
        self.gamma = gamma.ceil() as usize;
    }

    fn state(&self) -> Value {
        json!([self.gamma, self.average])
    }

    fn restore(&mut self, state: &Value) {
        if let Ok(saved) = from_value(state.clone()) {
            (self.gamma, self.average) = saved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::outcome;

    #[test]
    fn it_follows_the_average_and_leaps_where_all_was_accepted() {
        let mut rule = GammaTune::default();
        let mut after = |depth, accepted| {
            rule.observe(&outcome(depth, accepted));
            (rule.gamma, rule.average)
        };
        assert_eq!(after(2, 3), (5, 3.0), "3 + 2, the average untouched");
        let (gamma, average) = after(4, 1);
        assert!(gamma == 3 && (average - 2.4).abs() < 1e-12, "0.7 * 3 + 0.3 * 1");
        let (gamma, average) = after(2, 0);
        assert!(gamma == 2 && (average - 1.68).abs() < 1e-12, "0.7 * 2.4");
        let (gamma, average) = after(1, 0);
        assert!(gamma == 2 && (average - 1.176).abs() < 1e-12, "0.7 * 1.68");
        assert_eq!(after(1, 0), (1, 1.0), "0.8232 is below the least");
        assert_eq!(after(8, 9), (10, 1.0), "11 is above the most");
    }

    #[test]
    fn the_other_setting_has_limits_around_a_default() {
        let mut rule = GammaTune::ltd(8);
        assert_eq!((rule.gamma, rule.least, rule.most), (8, 4.0, 12.0));
        rule.observe(&outcome(7, 8));
        assert_eq!(rule.gamma, 10);
        rule.observe(&outcome(9, 3));
        assert_eq!((rule.gamma, rule.average), (7, 7.0), "0.8 * 8 + 0.2 * 3");
        rule.observe(&outcome(11, 12));
        assert_eq!(rule.gamma, 12);
        let mut odd = GammaTune::ltd(7);
        odd.observe(&outcome(6, 7));
        assert_eq!(odd.gamma, 9);
        odd.observe(&outcome(8, 9));
        assert_eq!(odd.gamma, 11, "10.5, rounded up");
    }
}
