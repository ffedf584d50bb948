//! A bandit over constants.

use ltd_cycle::{Controller, CycleOutcome, Static};
use ltd_policy::CycleSummary;
use serde_json::{Value, from_value, json};

/// UCB1 over constants, the setting of `BanditSpec` (arXiv 2505.15141). Every arm is played once,
/// in their order. Then each cycle plays the arm with the largest `mean + sqrt(2 ln t / n)`, the
/// first of equals: `mean` of its rewards, `n` of its cycles, `t` of all. The reward of a cycle is
/// its tokens per second over the largest of any cycle so far, so that it is within 0 and 1.
///
/// Read so: this is UCB1 as in textbooks (Auer, Cesa-Bianchi and Fischer 2002). The published code
/// divides by the cycles of all arms, so that the bonus is the same for all and the choice is
/// greedy in effect. The paper's arms are drafters and their settings; these are depths and sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Ucb1 {
    /// The constants to choose among, at least one.
    arms: Vec<Static>,
    /// Cycles of each arm.
    counts: Vec<u64>,
    /// Sum of the tokens per second of each arm's cycles.
    sums: Vec<f64>,
    /// The most tokens per second of any cycle.
    most: f64,
    /// The arm of the next cycle.
    arm: usize,
}

impl Default for Ucb1 {
    /// Depths of 2, 4, 6 and 8 with sizes of 20 and 60: the paper has no such arms.
    fn default() -> Self {
        Self::new([2, 4, 6, 8].into_iter().flat_map(|depth| [20, 60].map(|size| Static { depth, size })))
    }
}

impl Ucb1 {
    /// A bandit over these arms.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(arms: impl IntoIterator<Item = Static>) -> Self {
        let arms: Vec<Static> = arms.into_iter().collect();
        assert!(!arms.is_empty(), "a bandit needs arms");
        Self { counts: vec![0; arms.len()], sums: vec![0.0; arms.len()], most: 0.0, arm: 0, arms }
    }

    /// The arm of the next cycle.
    pub fn arm(&self) -> usize {
        self.arm
    }

    fn choose(&self) -> usize {
        if let Some(untried) = self.counts.iter().position(|&count| count == 0) {
            return untried;
        }
        let total: u64 = self.counts.iter().sum();
        let bound = |arm: usize| {
            let count = self.counts[arm] as f64;
            self.sums[arm] / count / self.most + (2.0 * (total as f64).ln() / count).sqrt()
        };
        let first_of_best = |best: usize, arm: usize| if bound(arm) > bound(best) { arm } else { best };
        (0..self.arms.len()).fold(0, first_of_best)
    }
}

impl Controller for Ucb1 {
    fn size_limit(&self) -> usize {
        self.arms[self.arm].size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.arms[self.arm].depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.arms[self.arm].size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        let reward = outcome.throughput();
        // A cycle without a tree is no arm's, and one that took no time has no throughput.
        if outcome.drafted.is_none() || !reward.is_finite() || reward <= 0.0 {
            return;
        }
        self.counts[self.arm] += 1;
        self.sums[self.arm] += reward;
        self.most = self.most.max(reward);
        self.arm = self.choose();
    }

    fn state(&self) -> Value {
        json!([self.counts, self.sums, self.most, self.arm])
    }

    fn restore(&mut self, state: &Value) {
        let saved = from_value::<(Vec<u64>, Vec<f64>, f64, usize)>(state.clone());
        let Ok((counts, sums, most, arm)) = saved else { return };
        let arms = self.arms.len();
        // Of other arms, or of more cycles than there are: this bandit begins anew.
        let possible = counts.iter().all(|&count| u32::try_from(count).is_ok());
        if counts.len() == arms && sums.len() == arms && arm < arms && possible {
            (self.counts, self.sums, self.most, self.arm) = (counts, sums, most, arm);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_cycle::CycleTiming;

    use super::*;
    use crate::made_up::outcome;

    fn cycle(tokens: usize, ms: u64) -> CycleOutcome {
        let timing = CycleTiming { verify: Duration::from_millis(ms), ..CycleTiming::default() };
        CycleOutcome { timing, ..outcome(4, tokens - 1) }
    }

    #[test]
    fn it_plays_the_arm_with_the_largest_bound() {
        let arms = [2, 4].map(|depth| Static { depth, size: 20 });
        let mut bandit = Ucb1::new(arms);
        let mut play = |tokens, ms| {
            let arm = bandit.arm();
            bandit.observe(&cycle(tokens, ms));
            arm
        };
        assert_eq!(play(1, 10), 0, "100 tokens a second");
        assert_eq!(play(4, 10), 1, "400 tokens a second");
        // Means 0.25 and 1, and the same bonus of sqrt(2 ln 2) = 1.18.
        assert_eq!(play(4, 10), 1);
        // 0.25 + sqrt(2 ln 3) = 1.73, 1 + sqrt(2 ln 3 / 2) = 2.05.
        assert_eq!(play(4, 10), 1);
        // 0.25 + sqrt(2 ln 4) = 1.915, 1 + sqrt(2 ln 4 / 3) = 1.961.
        assert_eq!(play(4, 10), 1);
        // 0.25 + sqrt(2 ln 5) = 2.044, 1 + sqrt(2 ln 5 / 4) = 1.897: the other one's turn.
        assert_eq!(play(8, 10), 0);
        // Twice as fast as any before: means (100 + 800) / 2 / 800 = 0.5625 and 0.5, and
        // bonuses of sqrt(2 ln 6 / 2) = 1.339 and sqrt(2 ln 6 / 4) = 0.947.
        assert_eq!(play(1, 10), 0);
    }

    #[test]
    fn it_goes_on_from_a_saved_state() {
        let mut bandit = Ucb1::default();
        for tokens in [1, 3, 2, 5, 4, 4, 1, 2, 3, 3] {
            bandit.observe(&cycle(tokens, 10));
        }
        let mut restored = Ucb1::default();
        restored.restore(&bandit.state());
        assert_eq!(restored, bandit);
        let mut other = Ucb1::new([Static { depth: 1, size: 1 }]);
        other.restore(&bandit.state());
        assert_eq!(other, Ucb1::new([Static { depth: 1, size: 1 }]));
        bandit.observe(&CycleOutcome { drafted: None, ..cycle(9, 1) });
        bandit.observe(&cycle(9, 0));
        assert_eq!(restored, bandit, "neither is an arm's cycle");
    }
}
