//! What a cycle yields: plain records without tensors.

use std::time::Duration;

/// Wall-clock parts of one cycle, device synchronised at each boundary. Their sum is the cycle time `T`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CycleTiming {
    /// Draft forwards and tree growth.
    pub draft: Duration,
    /// Policy inference: observation and decision.
    pub policy: Duration,
    /// Selection, target forward, acceptance and commit.
    pub verify: Duration,
    /// The part of `draft` and `verify` that was spent inside model forwards; zero unless the engine profiles.
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
#[derive(Debug, Clone, PartialEq)]
pub struct CycleOutcome {
    /// Tokens that the cycle appends to the sequence: the root, then the accepted draft tokens.
    pub accepted_ids: Vec<u32>,
    /// The target's own token after them: the next root.
    pub next_token: u32,
    /// Draft forwards made after the root expansion, `D`.
    pub draft_depth: usize,
    /// Candidates verified, the root not counted, `V` (fewer than asked for when the tree or the cache is smaller).
    pub verification_size: usize,
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
