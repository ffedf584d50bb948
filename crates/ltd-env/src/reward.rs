//! What a cycle is worth.

use ltd_engine::CycleOutcome;
use serde::{Deserialize, Serialize};

/// Which quantity is rewarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reward {
    /// `tau / T` in tokens per 10 ms, the unit of the reference code (arXiv 2603.01639).
    Throughput,
    /// `tau` (an ablation of the paper).
    Acceptance,
    /// `-T` in units of 100 ms (an ablation of the paper).
    Time,
    /// `tau - lambda * T`, with `lambda` the running `sum(tau) / sum(T)`. Its fixed point maximises tokens per
    /// second, which the mean of `tau / T` does not.
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

/// Computes rewards and keeps the sums that `gain` needs.
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

    /// The reward of a cycle. Its own tokens and time are part of `lambda`, so that the first cycle's gain is 0.
    pub fn reward(&mut self, outcome: &CycleOutcome) -> f32 {
        let tokens = outcome.acceptance_length() as f64;
        let seconds = outcome.timing.total().as_secs_f64();
        self.tokens += tokens;
        self.seconds += seconds;
        let reward = match self.reward {
            Reward::Throughput => tokens / seconds * SECONDS_PER_THROUGHPUT_UNIT,
            Reward::Acceptance => tokens,
            Reward::Time => -seconds / SECONDS_PER_TIME_UNIT,
            Reward::Gain => tokens - self.tokens_per_second() * seconds,
        };
        reward as f32
    }

    /// `lambda`: tokens per second of all cycles so far.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_engine::CycleTiming;

    use super::*;

    fn outcome(tokens: usize, milliseconds: u64) -> CycleOutcome {
        CycleOutcome {
            accepted_ids: vec![0; tokens],
            next_token: 0,
            draft_depth: 1,
            verification_size: 1,
            requested_size: 1,
            context_length: 1,
            timing: CycleTiming { verify: Duration::from_millis(milliseconds), ..CycleTiming::default() },
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
        assert!((meter.reward(&outcome(4, 100)) - 1.0).abs() < 1e-6);
        assert!((meter.tokens_per_second() - 30.0).abs() < 1e-6);
    }
}
