//! Where a generation ends, the same for plain and speculative decoding.

use serde::{Deserialize, Serialize};

/// What was generated so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation<'t> {
    /// Tokens after the prompt that are part of the sequence.
    pub tokens: &'t [u32],
    /// The target's token after them: the next root.
    pub root: u32,
    /// Whether the cache has no room for the root.
    pub is_full: bool,
}

/// Limits of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRule {
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// An end-of-sequence token was produced.
    EndOfSequence,
    /// The wanted number of tokens was produced.
    MaxNewTokens,
    /// The cache has no room for another token.
    CacheFull,
}

impl StopRule {
    /// Whether generation ends before the next cycle or step. Speculative decoding commits several
    /// tokens at once and may run past the end: [`StopRule::output`] cuts what is beyond.
    pub fn reached(&self, continuation: Continuation) -> Option<StopReason> {
        let Continuation { tokens: new, root, is_full } = continuation;
        let within_limit = &new[..new.len().min(self.max_new_tokens)];
        if within_limit.iter().any(|token| self.eos.contains(token)) {
            Some(StopReason::EndOfSequence)
        } else if new.len() >= self.max_new_tokens {
            Some(StopReason::MaxNewTokens)
        } else if self.eos.contains(&root) {
            Some(StopReason::EndOfSequence)
        } else if is_full {
            Some(StopReason::CacheFull)
        } else {
            None
        }
    }

    /// How many of the new tokens can be the root of a cycle: those before which generation has not
    /// ended. `room` is the number of new tokens that the cache has room for.
    pub fn roots(&self, new: &[u32], room: usize) -> usize {
        let before_end = new.iter().take_while(|token| !self.eos.contains(token)).count();
        before_end.min(self.max_new_tokens).min(room)
    }

    /// The new tokens of a generation that ended: up to the first end-of-sequence token (included)
    /// and the limit.
    pub fn output(&self, continuation: Continuation) -> Vec<u32> {
        let Continuation { tokens, root, .. } = continuation;
        let new = tokens.iter().copied().chain([root]);
        let mut output: Vec<u32> = new.take(self.max_new_tokens).collect();
        if let Some(end) = output.iter().position(|token| self.eos.contains(token)) {
            output.truncate(end + 1);
        }
        output
    }
}
