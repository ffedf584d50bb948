//! What copying comes to in a recorded sequence.
//!
//! A chain is accepted as far as the continuation says the same, which follows
//! from the tokens alone, whatever the cycles before.

use ltd_cycle::{CopySource, CycleOutcome, Occurrence, Yields, source_summary};
use ltd_policy::{DraftSource, LONGEST_MATCH, SourceSummary};

use crate::Costs;
use crate::trace::{Outline, TraceHeader};

/// What copying comes to at a recorded position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The latest earlier occurrence of the latest tokens, the root included.
    pub found: Option<Occurrence>,
    /// Tokens of an endless chain that are accepted, as far as the continuation is known.
    pub accepted: usize,
}

impl Copied {
    /// What copying comes to at all positions of a sequence.
    pub fn along(sequence: &Outline) -> Vec<Self> {
        let mut source = CopySource::new(LONGEST_MATCH);
        let positions = (0..sequence.len()).map(|at| {
            let root = sequence.root(at);
            source.extend(&sequence.tokens[source.tokens().len()..=root]);
            let found = source.find();
            let continuation = &sequence.tokens[root + 1..][..sequence.known(at)];
            let accepted = found.map_or(0, |found| accepted(&source, found, continuation));
            Self { found, accepted }
        });
        positions.collect()
    }

    /// What is known before a cycle at the recorded position `at`, as if it were the first one.
    pub fn summary(&self, sequence: &Outline, at: usize) -> SourceSummary {
        let said = &sequence.tokens[..=sequence.root(at)];
        source_summary(said, self.found, sequence.prompt_len, 1, Yields::default())
    }

    /// Latest tokens that were said before.
    pub fn length(&self) -> usize {
        self.found.map_or(0, |found| found.length)
    }

    /// At most `length` tokens to copy after the root, which is number `root` of `tokens`.
    pub(crate) fn chain(&self, tokens: &[u32], root: usize, length: usize) -> Vec<u32> {
        let earlier = self.found.map_or(&[][..], |found| &tokens[found.end..=root]);
        earlier.iter().copied().cycle().take(length).collect()
    }

    /// How a cycle ends that copies at most `chain` tokens after the root, which is number `root`
    /// of `tokens`.
    pub(crate) fn verify(
        &self,
        header: &TraceHeader,
        tokens: &[u32],
        root: usize,
        costs: &Costs,
        chain: usize,
    ) -> CycleOutcome {
        let room = header.capacity.saturating_sub(root + 1);
        let size = if self.found.is_some() { chain.min(room) } else { 0 };
        let accepted = self.accepted.min(size);
        CycleOutcome {
            source: DraftSource::Copy { chain },
            match_length: self.length(),
            copied: (size > 0).then_some(accepted),
            accepted_ids: tokens[root..=root + accepted].to_vec(),
            next_token: tokens[root + accepted + 1],
            verification_size: size,
            requested_size: chain,
            context_length: root,
            timing: costs.copying(size, root),
            ..CycleOutcome::default()
        }
    }
}

/// Tokens at the front of the continuation that a chain has.
fn accepted(source: &CopySource, found: Occurrence, continuation: &[u32]) -> usize {
    let chain = source.chain(found, continuation.len());
    chain.iter().zip(continuation).take_while(|(copied, said)| copied == said).count()
}
