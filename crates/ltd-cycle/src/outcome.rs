//! What a cycle yields: plain records without tensors.

use std::collections::BTreeMap;
use std::time::Duration;

use ltd_policy::DraftSource;
use serde::{Deserialize, Serialize};

/// Wall-clock parts of one cycle, device synchronised at each boundary. Their sum is the cycle time
/// `T`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CycleTiming {
    /// Draft forwards and tree growth.
    pub draft: Duration,
    /// Policy inference: observation and decision.
    pub policy: Duration,
    /// Selection, target forward, acceptance and commit.
    pub verify: Duration,
    /// The part of `draft` and `verify` that was spent inside model forwards; zero unless the
    /// engine profiles.
    pub forwards: Duration,
}

impl CycleTiming {
    /// The cycle time `T`.
    pub fn total(&self) -> Duration {
        self.draft + self.policy + self.verify
    }
}

impl std::ops::AddAssign for CycleTiming {
    fn add_assign(&mut self, other: Self) {
        self.draft += other.draft;
        self.policy += other.policy;
        self.verify += other.verify;
        self.forwards += other.forwards;
    }
}

/// The result of one draft-and-verify cycle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleOutcome {
    /// What it drafted from.
    pub source: DraftSource,
    /// Latest tokens that were said before, where the controller chose the source; 0 elsewhere.
    pub match_length: usize,
    /// Accepted tokens that the tree had; none if there was no tree.
    pub drafted: Option<usize>,
    /// Accepted tokens that were copied, those included that the tree had, too; none if nothing was
    /// copied.
    pub copied: Option<usize>,
    /// Tokens that the cycle appends to the sequence: the root, then the accepted draft tokens.
    pub accepted_ids: Vec<u32>,
    /// The target's own token after them: the next root.
    pub next_token: u32,
    /// Draft forwards made after the root expansion, `D`.
    pub draft_depth: usize,
    /// Rows of each of these.
    pub level_rows: Vec<usize>,
    /// Candidates verified, the root not counted, `V` (fewer than asked for when the tree or the
    /// cache is smaller).
    pub verification_size: usize,
    /// Candidates asked for.
    pub requested_size: usize,
    /// Cached tokens before verification, `L`.
    pub context_length: usize,
    /// Where the time went.
    pub timing: CycleTiming,
}

impl CycleOutcome {
    /// Acceptance length `tau`: accepted draft tokens plus the target's own.
    pub fn acceptance_length(&self) -> usize {
        self.accepted_ids.len()
    }

    /// Tokens per second of this cycle, `tau / T`.
    pub fn throughput(&self) -> f64 {
        self.acceptance_length() as f64 / self.timing.total().as_secs_f64()
    }
}

/// Sums and counts over cycles.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleStats {
    /// Cycles.
    pub cycles: usize,
    /// Tokens they yielded.
    pub tokens: usize,
    /// Candidates they verified.
    pub candidates: usize,
    /// Where their time went.
    pub timing: CycleTiming,
    /// Sum of their context lengths.
    pub context_lengths: usize,
    /// Cycles by acceptance length.
    pub acceptance_lengths: BTreeMap<usize, usize>,
    /// Cycles with a tree by draft depth.
    pub depths: BTreeMap<usize, usize>,
    /// Cycles by verification size.
    pub sizes: BTreeMap<usize, usize>,
    /// Cycles that verified copied tokens.
    #[serde(default)]
    pub copies: usize,
    /// Copied tokens that they accepted.
    #[serde(default)]
    pub copied_tokens: usize,
    /// Tokens of trees that were accepted.
    #[serde(default)]
    pub drafted_tokens: usize,
    /// Cycles with a tree by the size asked for: what was chosen, whatever a small tree made of it.
    #[serde(default)]
    pub requested_sizes: BTreeMap<usize, usize>,
}

impl CycleStats {
    /// Adds a cycle.
    pub fn add(&mut self, outcome: &CycleOutcome) {
        let tokens = outcome.acceptance_length();
        self.cycles += 1;
        self.tokens += tokens;
        self.candidates += outcome.verification_size;
        self.timing += outcome.timing;
        self.context_lengths += outcome.context_length;
        if let Some(copied) = outcome.copied {
            self.copies += 1;
            self.copied_tokens += copied;
        }
        *self.acceptance_lengths.entry(tokens).or_default() += 1;
        *self.sizes.entry(outcome.verification_size).or_default() += 1;
        if let Some(drafted) = outcome.drafted {
            self.drafted_tokens += drafted;
            *self.depths.entry(outcome.draft_depth).or_default() += 1;
            *self.requested_sizes.entry(outcome.requested_size).or_default() += 1;
        }
    }

    /// Adds the cycles of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.cycles += other.cycles;
        self.tokens += other.tokens;
        self.candidates += other.candidates;
        self.timing += other.timing;
        self.context_lengths += other.context_lengths;
        self.copies += other.copies;
        self.copied_tokens += other.copied_tokens;
        self.drafted_tokens += other.drafted_tokens;
        for (counts, others) in [
            (&mut self.acceptance_lengths, &other.acceptance_lengths),
            (&mut self.depths, &other.depths),
            (&mut self.sizes, &other.sizes),
            (&mut self.requested_sizes, &other.requested_sizes),
        ] {
            for (value, count) in others {
                *counts.entry(*value).or_default() += count;
            }
        }
    }

    /// The cycles of all of these.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut total = Self::default();
        for part in parts {
            total.merge(part);
        }
        total
    }

    /// `sum(tau) / sum(T)`, 0 without cycles.
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.tokens as f64, self.timing.total().as_secs_f64())
    }

    /// Mean acceptance length.
    pub fn acceptance_length(&self) -> f64 {
        self.mean(self.tokens)
    }

    /// Accepted draft tokens per verified candidate.
    pub fn acceptance_rate(&self) -> f64 {
        ratio((self.tokens - self.cycles) as f64, self.candidates as f64)
    }

    /// Mean draft depth of the cycles with a tree.
    pub fn mean_depth(&self) -> f64 {
        let levels: usize = self.depths.iter().map(|(depth, count)| depth * count).sum();
        ratio(levels as f64, self.depths.values().sum::<usize>() as f64)
    }

    /// Mean verification size of all cycles, chains and steps of plain decoding included.
    pub fn mean_size(&self) -> f64 {
        self.mean(self.candidates)
    }

    /// Share of the cycles that copied.
    pub fn copying_share(&self) -> f64 {
        self.mean(self.copies)
    }

    /// Mean copied tokens that a copying cycle accepted, 0 without one.
    pub fn accepted_of_copies(&self) -> f64 {
        ratio(self.copied_tokens as f64, self.copies as f64)
    }

    /// Mean draft tokens that a cycle with a tree accepted, 0 without one.
    pub fn accepted_of_trees(&self) -> f64 {
        ratio(self.drafted_tokens as f64, self.depths.values().sum::<usize>() as f64)
    }

    /// Mean context length.
    pub fn mean_context_length(&self) -> f64 {
        self.mean(self.context_lengths)
    }

    /// Mean of a part of the time per cycle, in milliseconds.
    pub fn mean_ms(&self, part: Duration) -> f64 {
        ratio(part.as_secs_f64() * 1e3, self.cycles as f64)
    }

    /// A part of the time as a share of all of it.
    pub fn share(&self, part: Duration) -> f64 {
        ratio(part.as_secs_f64(), self.timing.total().as_secs_f64())
    }

    /// Share of the cycles that accepted at least 1, 2, ... draft or copied tokens.
    pub fn acceptance_per_depth(&self) -> Vec<f64> {
        let deepest = self.acceptance_lengths.keys().next_back().copied().unwrap_or(1);
        let shares = (1..deepest).map(|accepted| {
            let cycles: usize = self.acceptance_lengths.range(accepted + 1..).map(|(_, count)| count).sum();
            self.mean(cycles)
        });
        shares.collect()
    }

    fn mean(&self, sum: usize) -> f64 {
        ratio(sum as f64, self.cycles as f64)
    }
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 { numerator / denominator } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tokens: usize, depth: usize, size: usize, ms: u64) -> CycleOutcome {
        CycleOutcome {
            drafted: Some(tokens - 1),
            accepted_ids: vec![0; tokens],
            next_token: 0,
            draft_depth: depth,
            level_rows: vec![10; depth],
            verification_size: size,
            requested_size: size,
            context_length: 10,
            timing: CycleTiming { verify: Duration::from_millis(ms), ..CycleTiming::default() },
            ..CycleOutcome::default()
        }
    }

    #[test]
    fn statistics_are_ratios_of_sums() {
        let (mut stats, mut second) = (CycleStats::default(), CycleStats::default());
        assert_eq!(stats.tokens_per_second(), 0.0);
        stats.add(&outcome(1, 2, 4, 100));
        second.add(&outcome(4, 5, 8, 300));
        second.add(&outcome(4, 5, 12, 100));
        stats.merge(&second);
        assert_eq!((stats.tokens_per_second(), stats.acceptance_length()), (18.0, 3.0));
        assert_eq!((stats.mean_depth(), stats.mean_size(), stats.acceptance_rate()), (4.0, 8.0, 0.25));
        assert_eq!(stats.acceptance_per_depth(), vec![2.0 / 3.0; 3]);
        assert_eq!((stats.mean_ms(stats.timing.verify), stats.share(stats.timing.draft)), (500.0 / 3.0, 0.0));
        assert_eq!((stats.copying_share(), stats.accepted_of_copies()), (0.0, 0.0));
        assert_eq!(stats.accepted_of_trees(), 2.0);
        let source = DraftSource::Copy { chain: 8 };
        stats.add(&CycleOutcome { source, drafted: None, copied: Some(5), ..outcome(6, 0, 8, 100) });
        // Plain decoding copies nothing.
        let source = DraftSource::Copy { chain: 0 };
        stats.add(&CycleOutcome { source, drafted: None, ..outcome(1, 0, 0, 100) });
        assert_eq!((stats.copying_share(), stats.accepted_of_copies()), (0.2, 5.0));
        assert_eq!(stats.accepted_of_trees(), 2.0);
        assert_eq!(stats.depths, BTreeMap::from([(2, 1), (5, 2)]), "copies have no depth");
        assert_eq!(stats.requested_sizes, BTreeMap::from([(4, 1), (8, 1), (12, 1)]));
    }
}
