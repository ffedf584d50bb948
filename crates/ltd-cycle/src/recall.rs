//! What a sequence remembers for the choice of what to draft from.

use ltd_policy::{LONGEST_MATCH, SourceSummary};
use serde::{Deserialize, Serialize};

use crate::{CopySource, CycleOutcome, Occurrence};

/// Weight of the last cycle in what cycles yielded lately.
const LAST: f32 = 0.25;
/// Accepted tokens that are expected of either source before its first cycle.
const BEFORE: f32 = 1.0;

/// Draft tokens that the latest cycles of a sequence accepted, by source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Yields {
    copied: f32,
    drafted: f32,
}

impl Default for Yields {
    fn default() -> Self {
        Self { copied: BEFORE, drafted: BEFORE }
    }
}

impl Yields {
    /// Notes a cycle. A step of plain decoding tells nothing of either source, a merged tree of
    /// both.
    pub fn observe(&mut self, outcome: &CycleOutcome) {
        for (lately, accepted) in [(&mut self.drafted, outcome.drafted), (&mut self.copied, outcome.copied)] {
            if let Some(accepted) = accepted {
                *lately += LAST * (accepted as f32 - *lately);
            }
        }
    }
}

/// What is known before a cycle: `found` is the earlier occurrence of the latest of `tokens`, whose
/// last is the root. The first `prompt_len` are the prompt's, and the draft has not read the last
/// `unread` before the root.
pub fn source_summary(
    tokens: &[u32],
    found: Option<Occurrence>,
    prompt_len: usize,
    unread: usize,
    yields: Yields,
) -> SourceSummary {
    let context_length = tokens.len().saturating_sub(1);
    let summary = SourceSummary {
        context_length,
        root: tokens.last().copied().unwrap_or_default(),
        unread,
        copied_lately: yields.copied,
        drafted_lately: yields.drafted,
        ..SourceSummary::default()
    };
    let Some(Occurrence { length, end, occurrences, agreeing }) = found else { return summary };
    SourceSummary {
        match_length: length,
        occurrences,
        agreeing,
        distance: context_length + 1 - end,
        in_prompt: end <= prompt_len,
        copied: tokens.get(end).copied(),
        ..summary
    }
}

/// The text of a sequence, ready to be copied from, and what its cycles yielded lately.
#[derive(Debug, Clone)]
pub struct Recall {
    text: CopySource,
    prompt_len: usize,
    yields: Yields,
}

impl Recall {
    /// Of a sequence whose prompt has so many tokens; of none of them yet.
    pub fn new(prompt_len: usize) -> Self {
        Self { text: CopySource::new(LONGEST_MATCH), prompt_len, yields: Yields::default() }
    }

    /// Reads what it has not read of the certain tokens and the root after them.
    pub fn read(&mut self, tokens: &[u32], root: u32) {
        let known = self.text.tokens().len();
        // Asked again, it knows the root too.
        if let Some(new) = tokens.get(known..) {
            self.text.extend(new);
            self.text.extend(&[root]);
        }
    }

    /// Adds the tokens that follow those that it has read, the last of which is the next root.
    pub(crate) fn append(&mut self, tokens: &[u32]) {
        self.text.extend(tokens);
    }

    /// What is known now, if the draft has not read the last `unread` tokens.
    pub fn summary(&self, unread: usize) -> SourceSummary {
        source_summary(self.text.tokens(), self.text.find(), self.prompt_len, unread, self.yields)
    }

    /// Latest tokens that were said before.
    pub fn match_length(&self) -> usize {
        self.text.find().map_or(0, |found| found.length)
    }

    /// The `length` tokens to copy; none if the last token is new.
    pub fn chain(&self, length: usize) -> Vec<u32> {
        self.text.find().map(|found| self.text.chain(found, length)).unwrap_or_default()
    }

    /// Notes what a cycle yielded.
    pub fn observe(&mut self, outcome: &CycleOutcome) {
        self.yields.observe(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(drafted: Option<usize>, copied: Option<usize>) -> CycleOutcome {
        CycleOutcome { drafted, copied, ..CycleOutcome::default() }
    }

    #[test]
    fn a_summary_says_where_the_latest_tokens_were_said() {
        let mut recall = Recall::new(4);
        // The root is read with the tokens before it, and once.
        recall.read(&[5, 6, 7, 8, 5], 6);
        recall.read(&[5, 6, 7, 8, 5], 6);
        let summary = recall.summary(3);
        assert_eq!((summary.match_length, summary.distance, summary.in_prompt), (2, 4, true));
        assert_eq!((summary.context_length, summary.unread), (5, 3));
        assert_eq!((summary.root, summary.copied), (6, Some(7)));
        assert_eq!(recall.chain(6), [7, 8, 5, 6, 7, 8]);
        recall.read(&[5, 6, 7, 8, 5, 6], 9);
        let summary = recall.summary(1);
        assert_eq!((summary.match_length, summary.root, summary.copied), (0, 9, None));
        assert_eq!(recall.chain(3), [0; 0]);
    }

    #[test]
    fn yields_are_of_the_latest_cycles_of_each_source() {
        let mut recall = Recall::new(1);
        let lately = |recall: &Recall| {
            let summary = recall.summary(1);
            (summary.copied_lately, summary.drafted_lately)
        };
        recall.observe(&outcome(Some(5), None));
        assert_eq!(lately(&recall), (1.0, 2.0));
        recall.observe(&outcome(None, Some(0)));
        assert_eq!(lately(&recall), (0.75, 2.0));
        recall.observe(&outcome(None, None));
        assert_eq!(lately(&recall), (0.75, 2.0));
        recall.observe(&outcome(Some(2), Some(1)));
        assert_eq!(lately(&recall), (0.8125, 2.0));
    }
}
