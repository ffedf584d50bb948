//! How much longer live cycles take than costs say.

use std::time::Duration;

use ltd_engine::CycleOutcome;
use ltd_policy::DraftSource;
use ltd_run::statistics::quartiles;
use serde::{Deserialize, Serialize};

/// Time of cycles over what they should have taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Slowdowns {
    trees: OfSource,
    copies: OfSource,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct OfSource {
    ratios: Vec<f64>,
    /// What all of them should have taken.
    expected: Duration,
}

impl Slowdowns {
    /// Adds a cycle that should have taken `expected`.
    pub(crate) fn add(&mut self, outcome: &CycleOutcome, expected: Duration) {
        let of_source = match outcome.source {
            DraftSource::Tree | DraftSource::Merged { .. } => &mut self.trees,
            DraftSource::Copy { .. } => &mut self.copies,
        };
        of_source.ratios.push(outcome.timing.total().div_duration_f64(expected));
        of_source.expected += expected;
    }

    /// Adds the cycles of `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        for (own, other) in [(&mut self.trees, other.trees), (&mut self.copies, other.copies)] {
            own.ratios.extend(other.ratios);
            own.expected += other.expected;
        }
    }

    /// The median of each source, as a moment's disturbance says nothing of a contender, weighed by
    /// the time that the source should have taken; none without a cycle.
    pub(crate) fn slowdown(&self) -> Option<f64> {
        let sources = [&self.trees, &self.copies].into_iter().filter(|source| !source.ratios.is_empty());
        let (mut taken, mut expected) = (0.0, 0.0);
        for source in sources {
            let seconds = source.expected.as_secs_f64();
            taken += quartiles(source.ratios.clone())[1] * seconds;
            expected += seconds;
        }
        (expected > 0.0).then(|| taken / expected)
    }
}

#[cfg(test)]
mod tests {
    use ltd_engine::CycleTiming;

    use super::*;

    #[test]
    fn each_source_counts_by_its_time_and_a_disturbance_does_not() {
        let mut slowdowns = Slowdowns::default();
        assert_eq!(slowdowns.slowdown(), None);
        let mut add = |source, milliseconds: u64, expected: u64| {
            let verify = Duration::from_millis(milliseconds);
            let timing = CycleTiming { verify, ..CycleTiming::default() };
            let outcome = CycleOutcome { source, timing, ..CycleOutcome::default() };
            slowdowns.add(&outcome, Duration::from_millis(expected));
        };
        // Three trees, one of them disturbed; five short copies, twice as slow as they should be.
        for milliseconds in [100, 900, 100] {
            add(DraftSource::Tree, milliseconds, 100);
        }
        for _ in 0..5 {
            add(DraftSource::Copy { chain: 4 }, 40, 20);
        }
        let found = slowdowns.slowdown().expect("cycles");
        assert!((found - (300.0 + 2.0 * 100.0) / 400.0).abs() < 1e-9, "{found}");
        let mut twice = slowdowns.clone();
        twice.merge(slowdowns);
        assert!((twice.slowdown().expect("cycles") - found).abs() < 1e-9);
    }
}
