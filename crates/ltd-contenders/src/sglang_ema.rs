//! Adaptive steps by a moving average.

use ltd_cycle::{Controller, CycleOutcome};
use ltd_policy::CycleSummary;
use serde_json::{Value, from_value, json};

/// The adaptive steps of `SGLang` for one sequence (`adaptive_spec_params.py`, strategy `ema`):
/// after each cycle `ema <- (1 - w) * ema + w * A`, where `A` are its accepted draft tokens, the
/// target's own not counted. After a warm-up the number of steps is decided anew every few cycles:
///
/// - down a tier while `ema <= tier below - 0.5 + down`;
/// - if it did not go down, up a tier while `ema > tier - 0.5 + up`.
///
/// It may pass several tiers at once. The average begins with steps - 1.
///
/// Read so: it drafts chains there, whose `S` steps are `S` tokens. Steps are levels of the tree
/// here, `D + 1` (see [the crate](crate)): `S - 1` forwards after the root expansion. It begins
/// with the middle tier, as there if none is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SglangEma {
    /// Numbers of levels to choose among, ascending.
    tiers: Vec<usize>,
    /// Weight of the latest cycle, `w`.
    pub weight: f64,
    /// Cycles between decisions.
    pub every: u64,
    /// Cycles before the first decision is due.
    pub warm_up: u64,
    /// Added to the threshold to go down, in tokens.
    pub down: f64,
    /// Added to the threshold to go up, in tokens.
    pub up: f64,
    /// Candidates to verify.
    pub size: usize,
    tier: usize,
    ema: f64,
    cycles: u64,
}

impl Default for SglangEma {
    fn default() -> Self {
        Self::new(vec![1, 3, 5, 7])
    }
}

impl SglangEma {
    /// The published values with these tiers.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(tiers: Vec<usize>) -> Self {
        let tier = tiers.len() / 2;
        let ema = tiers[tier] as f64 - 1.0;
        Self {
            tiers,
            weight: 0.2,
            every: 5,
            warm_up: 10,
            down: -0.25,
            up: 0.0,
            size: 60,
            tier,
            ema,
            cycles: 0,
        }
    }

    /// Levels of the next cycle.
    pub fn steps(&self) -> usize {
        self.tiers[self.tier]
    }

    fn decide(&mut self) {
        let before = self.tier;
        while self.tier > 0 && self.ema <= self.tiers[self.tier - 1] as f64 - 0.5 + self.down {
            self.tier -= 1;
        }
        if self.tier < before {
            return;
        }
        while self.tier + 1 < self.tiers.len() && self.ema > self.steps() as f64 - 0.5 + self.up {
            self.tier += 1;
        }
    }
}

impl Controller for SglangEma {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.steps()
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        let Some(accepted) = outcome.drafted else { return };
        self.ema = (1.0 - self.weight) * self.ema + self.weight * accepted as f64;
        self.cycles += 1;
        if self.cycles > self.warm_up && (self.cycles - self.warm_up).is_multiple_of(self.every) {
            self.decide();
        }
    }

    fn state(&self) -> Value {
        json!([self.tier, self.ema, self.cycles])
    }

    fn restore(&mut self, state: &Value) {
        let Ok((tier, ema, cycles)) = from_value::<(usize, f64, u64)>(state.clone()) else { return };
        if tier < self.tiers.len() {
            (self.tier, self.ema, self.cycles) = (tier, ema, cycles);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::outcome;

    fn decided(tier: usize, ema: f64) -> usize {
        let mut rule = SglangEma { tier, ema, ..SglangEma::default() };
        rule.decide();
        rule.steps()
    }

    #[test]
    fn tiers_are_passed_at_their_thresholds() {
        // Down from 7 at 5 - 0.75, from 5 at 3 - 0.75, from 3 at 1 - 0.75.
        assert_eq!([4.26, 4.25, 2.26, 2.25, 0.25].map(|ema| decided(3, ema)), [7, 5, 5, 3, 1]);
        // Up from 1 above 0.5, from 3 above 2.5, from 5 above 4.5.
        assert_eq!([0.5, 0.51, 2.5, 2.51, 4.51].map(|ema| decided(0, ema)), [1, 3, 3, 5, 7]);
        assert_eq!(decided(2, 2.2), 3);
    }

    #[test]
    fn it_decides_every_fifth_cycle_after_ten() {
        let mut rule = SglangEma::default();
        assert_eq!((rule.steps(), rule.ema), (5, 4.0));
        for _ in 0..14 {
            rule.observe(&outcome(4, 0));
            rule.observe(&CycleOutcome { drafted: None, ..outcome(0, 3) });
        }
        assert_eq!(rule.steps(), 5);
        assert!((rule.ema - 4.0 * 0.8f64.powi(14)).abs() < 1e-12, "0.176");
        rule.observe(&outcome(4, 0));
        assert_eq!(rule.steps(), 1, "0.141, below 0.25: two tiers at once");
        let mut restored = SglangEma::default();
        restored.restore(&rule.state());
        assert_eq!(restored, rule);
    }
}
