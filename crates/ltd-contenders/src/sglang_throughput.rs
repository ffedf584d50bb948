//! Adaptive steps by expected tokens per millisecond.

use std::collections::VecDeque;

use ltd_cycle::{Controller, CycleOutcome, MAX_DEPTH};
use ltd_policy::{CycleSummary, tree_candidates};
use serde_json::{Value, from_value, json};

use crate::costs::Costs;

/// The throughput-aware steps of `SGLang` (`throughput_aware_spec_params.py`, pull request 28045):
/// `score(S) = (1 + sum over k < S of p[k]) / cost(S)`, and the number of steps with the largest
/// score is drafted, the smallest of equals. `p[k]` is the mean of `accepted > k` over the latest
/// cycles with more than `k` steps: a share of cycles already, so nothing is multiplied. It is
/// decided anew every few cycles, if the windows of all steps in use are full. When steps become
/// fewer, the windows beyond are cleared. A step with an empty window has the `p` of the step
/// before it times `(p[k-1] / p[0])^(1 / (k-1))`; with one known `p`, that.
///
/// Read so: steps are levels of the tree, `D + 1` (see [the crate](crate)), any number up to a most
/// (there 1, 3, 5 and 7), and it begins with the middle one, as there. Costs are those of the
/// measured table, of the latest context length and acceptance length, in place of the profiling
/// runs at its start. Its later versions decide every 5 cycles and ask for a score that is better
/// by a tenth.
#[derive(Debug, Clone, PartialEq)]
pub struct SglangThroughput {
    /// What cycles cost.
    pub costs: Costs,
    /// Cycles of a window.
    pub window: usize,
    /// Cycles between decisions.
    pub every: u64,
    /// Share by which another number of steps must score better.
    pub margin: f64,
    /// Candidates to verify.
    pub size: usize,
    steps: usize,
    cycles: u64,
    /// Whether the latest cycles have accepted more than `k` tokens, per `k`.
    windows: Vec<VecDeque<bool>>,
}

impl SglangThroughput {
    /// The published values on a machine.
    pub fn new(costs: Costs) -> Self {
        Self::with_most(costs, MAX_DEPTH)
    }

    /// The same with up to `most` levels, at least one.
    pub fn with_most(costs: Costs, most: usize) -> Self {
        let windows = vec![VecDeque::new(); most.max(1)];
        let steps = windows.len() / 2 + 1;
        Self { costs, window: 20, every: 10, margin: 0.0, size: 60, steps, cycles: 0, windows }
    }

    /// Levels of the next cycle.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// `p[k]` of each step, known or extrapolated.
    fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = Vec::with_capacity(self.windows.len());
        for (k, window) in self.windows.iter().enumerate() {
            let known = !window.is_empty();
            rates.push(match (known, rates.first(), rates.last()) {
                (true, ..) => {
                    window.iter().filter(|accepted| **accepted).count() as f64 / window.len() as f64
                }
                (false, Some(&first), Some(&last)) if k > 1 && first > 0.0 => {
                    last * (last / first).powf(1.0 / (k as f64 - 1.0)).min(1.0)
                }
                (false, _, last) => last.copied().unwrap_or(0.0),
            });
        }
        rates
    }

    fn decide(&mut self, context: usize, rows: usize) {
        let width = self.costs.beam_width;
        let mut tokens = 1.0;
        let score = |(depth, rate): (usize, f64)| {
            tokens += rate;
            let size = self.size.min(tree_candidates(width, depth));
            tokens / self.costs.model().cycle_ms(depth, size, context, rows)
        };
        let scores: Vec<f64> = self.rates().into_iter().enumerate().map(score).collect();
        let first_of_best =
            |best: usize, depth: usize| if scores[depth] > scores[best] { depth } else { best };
        let best = (0..scores.len()).fold(0, first_of_best);
        if scores[best] > scores[self.steps - 1] * (1.0 + self.margin) {
            if best + 1 < self.steps {
                self.windows[best + 1..].iter_mut().for_each(VecDeque::clear);
            }
            self.steps = best + 1;
        }
    }
}

impl Controller for SglangThroughput {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth + 1 < self.steps
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        let Some(accepted) = outcome.drafted else { return };
        for (k, window) in self.windows[..self.steps].iter_mut().enumerate() {
            window.push_back(accepted > k);
            while window.len() > self.window {
                window.pop_front();
            }
        }
        self.cycles += 1;
        let full = self.windows[..self.steps].iter().all(|window| window.len() >= self.window);
        if full && self.cycles.is_multiple_of(self.every) {
            self.decide(outcome.context_length, outcome.acceptance_length());
        }
    }

    fn state(&self) -> Value {
        json!([self.steps, self.cycles, self.windows])
    }

    fn restore(&mut self, state: &Value) {
        let saved = from_value::<(usize, u64, Vec<VecDeque<bool>>)>(state.clone());
        let Ok((steps, cycles, windows)) = saved else { return };
        if windows.len() == self.windows.len() && (1..=windows.len()).contains(&steps) {
            (self.steps, self.cycles, self.windows) = (steps, cycles, windows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{outcome, table};

    fn rule(most: usize, level_ms: f64) -> SglangThroughput {
        SglangThroughput::with_most(Costs::of(&table(10, level_ms, |_| 10.0)), most)
    }

    #[test]
    fn rates_are_shares_of_cycles_and_go_on_geometrically() {
        let mut rule = rule(5, 1.0);
        assert_eq!(rule.steps(), 3);
        for accepted in [0, 1, 1, 2, 3, 3, 3, 3] {
            rule.observe(&outcome(2, accepted));
        }
        // More than 0: 7 of 8; more than 1: 5; more than 2: 4. Then times sqrt(4 / 7) = 0.756, and
        // once more, as three of these quotients lead from the first to the fourth.
        let rates = rule.rates();
        assert_eq!(rates[..3], [0.875, 0.625, 0.5]);
        assert!((rates[3] - 0.378).abs() < 1e-3 && (rates[4] - 0.2857).abs() < 1e-3, "{rates:?}");
        rule.windows[1..].iter_mut().for_each(VecDeque::clear);
        assert_eq!(rule.rates(), [0.875; 5]);
        rule.windows[0] = VecDeque::from([false]);
        assert_eq!(rule.rates(), [0.0; 5]);
    }

    #[test]
    fn it_decides_with_full_windows_and_forgets_what_it_leaves() {
        let mut rule = rule(5, 4.0);
        for _ in 0..19 {
            rule.observe(&outcome(2, 1));
        }
        assert_eq!((rule.steps(), rule.windows[2].len()), (3, 19));
        rule.observe(&CycleOutcome { drafted: None, ..outcome(0, 8) });
        rule.observe(&outcome(2, 1));
        // One level: 2 tokens in 1 + 10 ms; two: 2 in 15.
        assert_eq!(rule.steps(), 1);
        assert_eq!(rule.windows.iter().map(VecDeque::len).collect::<Vec<_>>(), [20, 0, 0, 0, 0]);
        // p[0] = 1 makes all of them 1: six tokens in 1 + 16 + 10 ms are best.
        for _ in 0..10 {
            rule.observe(&outcome(0, 1));
        }
        assert_eq!(rule.steps(), 5);
        let mut restored = self::rule(5, 4.0);
        restored.restore(&rule.state());
        assert_eq!(restored, rule);
    }

    #[test]
    fn a_margin_keeps_what_is_nearly_as_good() {
        // 3.8 tokens in 19 ms, 2.9 in 15: 0.2 and 0.193, and 1.95 in 11, 0.177.
        for (margin, steps) in [(0.0, 3), (0.1, 2)] {
            let mut rule = SglangThroughput { margin, steps: 2, ..rule(3, 4.0) };
            rule.windows[0] = (0..20).map(|cycle| cycle < 19).collect();
            rule.windows[1] = rule.windows[0].clone();
            rule.windows[2] = (0..20).map(|cycle| cycle < 18).collect();
            rule.decide(100, 1);
            assert_eq!(rule.steps(), steps);
        }
    }
}
