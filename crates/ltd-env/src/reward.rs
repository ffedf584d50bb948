//! What a cycle is worth.

use ltd_cycle::CycleOutcome;
use serde::{Deserialize, Serialize};

/// Which quantity is rewarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reward {
    /// `tau / T` in tokens per 10 ms, the unit of the reference code (arXiv 2603.01639).
    Throughput,
    /// `tau` (an ablation of the paper).
    Acceptance,
    /// `-T` in units of 100 ms (an ablation of the paper).
    Time,
    /// `tau - lambda * T`, with `lambda` the throughput `sum(tau) / sum(T)` of the latest cycles.
    /// Its fixed point maximises tokens per second, which the mean of `tau / T` does not.
    #[default]
    Gain,
}

impl std::fmt::Display for Reward {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::Acceptance => "acceptance",
            Self::Time => "time",
            Self::Gain => "gain",
        })
    }
}

const SECONDS_PER_THROUGHPUT_UNIT: f64 = 0.01;
const SECONDS_PER_TIME_UNIT: f64 = 0.1;
/// Share of the sums that each further cycle leaves: cycles count as `exp(-age / 2000)`. Cycles of
/// an earlier, worse policy must fade, or `lambda` would lag behind the policy for as long as it
/// learns; with this many counted, `lambda` is still known to about 1 % (one cycle's tokens vary by
/// half their mean).
const KEPT: f64 = 1.0 - 1.0 / 2000.0;

/// Computes rewards and keeps the sums that `gain` needs.
///
/// `lambda` is found by iteration (Dinkelbach 1967): it is the throughput of the policy that
/// learns, which learns to maximise `tau - lambda * T`, which changes its throughput, until neither
/// moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardMeter {
    reward: Reward,
    tokens: f64,
    seconds: f64,
}

impl RewardMeter {
    /// A meter that has seen no cycle.
    pub fn new(reward: Reward) -> Self {
        Self { reward, tokens: 0.0, seconds: 0.0 }
    }

    /// The reward of a cycle, which is part of `lambda` from now on.
    pub fn reward(&mut self, outcome: &CycleOutcome) -> f32 {
        let worth = self.worth(outcome);
        (self.tokens, self.seconds) = self.sums_with(outcome);
        worth
    }

    /// What the reward of a cycle would be if it came next. Its own tokens and time are part of
    /// `lambda`, so that the first cycle's gain is 0.
    pub fn worth(&self, outcome: &CycleOutcome) -> f32 {
        let (tokens, seconds) = tokens_and_seconds(outcome);
        let worth = match self.reward {
            Reward::Throughput => tokens / seconds * SECONDS_PER_THROUGHPUT_UNIT,
            Reward::Acceptance => tokens,
            Reward::Time => -seconds / SECONDS_PER_TIME_UNIT,
            Reward::Gain => {
                let (all_tokens, all_seconds) = self.sums_with(outcome);
                tokens - all_tokens / all_seconds * seconds
            }
        };
        worth as f32
    }

    /// `lambda`, in tokens per second; `None` unless the reward is `gain`, or before the first
    /// cycle.
    pub fn lambda(&self) -> Option<f64> {
        (self.reward == Reward::Gain && self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }

    fn sums_with(&self, outcome: &CycleOutcome) -> (f64, f64) {
        let (tokens, seconds) = tokens_and_seconds(outcome);
        (self.tokens * KEPT + tokens, self.seconds * KEPT + seconds)
    }
}

fn tokens_and_seconds(outcome: &CycleOutcome) -> (f64, f64) {
    (outcome.acceptance_length() as f64, outcome.timing.total().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_cycle::CycleTiming;

    use super::*;

    fn outcome(tokens: usize, milliseconds: u64) -> CycleOutcome {
        CycleOutcome {
            accepted_ids: vec![0; tokens],
            next_token: 0,
            draft_depth: 1,
            level_rows: Vec::new(),
            verification_size: 1,
            requested_size: 1,
            context_length: 1,
            timing: CycleTiming { verify: Duration::from_millis(milliseconds), ..CycleTiming::default() },
            ..CycleOutcome::default()
        }
    }

    #[test]
    fn rewards_are_what_their_formulas_say() {
        for (reward, expected) in
            [(Reward::Throughput, 0.6), (Reward::Acceptance, 3.0), (Reward::Time, -0.5), (Reward::Gain, 0.0)]
        {
            let found = RewardMeter::new(reward).reward(&outcome(3, 50));
            assert!((found - expected).abs() < 1e-6, "{reward}: {found}");
        }
    }

    #[test]
    fn gain_compares_with_the_rate_so_far() {
        let mut meter = RewardMeter::new(Reward::Gain);
        meter.reward(&outcome(2, 100));
        // 6 tokens in 200 ms so far: 30 per second, 3 in 100 ms; this cycle brought 4.
        let foreseen = meter.worth(&outcome(4, 100));
        assert!((foreseen - 1.0).abs() < 1e-3, "{foreseen}");
        assert!((meter.lambda().expect("a cycle was seen") - 20.0).abs() < 1e-9, "foresight leaves no trace");
        assert_eq!(meter.reward(&outcome(4, 100)), foreseen);
        assert!((meter.lambda().expect("a cycle was seen") - 30.0).abs() < 0.01);
    }

    #[test]
    fn lambda_settles_at_the_throughput_of_the_latest_cycles() {
        let mut meter = RewardMeter::new(Reward::Gain);
        assert_eq!(meter.lambda(), None);
        for _ in 0..20_000 {
            meter.reward(&outcome(1, 100));
        }
        // The policy got better: 40 tokens per second in place of 10.
        for _ in 0..10_000 {
            meter.reward(&outcome(4, 100));
        }
        let lambda = meter.lambda().expect("cycles were seen");
        assert!((lambda / 40.0 - 1.0).abs() < 0.01, "{lambda}");
        assert!(meter.worth(&outcome(4, 100)).abs() < 0.04, "at its fixed point the mean gain is nothing");
    }
}
