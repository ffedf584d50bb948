//! Prompts without end: each once per epoch, in an order that the seed decides.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::random::stream;

/// An endless, shuffled, resumable sequence over a set of prompts.
#[derive(Debug, Clone)]
pub struct PromptStream {
    prompts: Vec<Vec<u32>>,
    seed: u64,
    position: Position,
    order: Vec<usize>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    epoch: u64,
    index: usize,
}

impl PromptStream {
    /// A stream over prompts in token ids.
    ///
    /// # Panics
    /// If there is no prompt.
    pub fn new(prompts: Vec<Vec<u32>>, seed: u64) -> Self {
        assert!(!prompts.is_empty(), "a stream needs a prompt");
        let mut stream = Self { prompts, seed, position: Position::default(), order: Vec::new() };
        stream.shuffle();
        stream
    }

    /// The next prompt.
    pub(crate) fn advance(&mut self) -> &[u32] {
        if self.position.index == self.order.len() {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
            self.shuffle();
        }
        let prompt = self.order[self.position.index];
        self.position.index += 1;
        &self.prompts[prompt]
    }

    /// The prompt that [`PromptStream::advance`] gave last, if there is one in this epoch.
    pub(crate) fn current(&self) -> Option<&[u32]> {
        let prompt = *self.order.get(self.position.index.checked_sub(1)?)?;
        Some(&self.prompts[prompt])
    }

    /// How many prompts [`PromptStream::advance`] has given.
    pub(crate) fn given(&self) -> u64 {
        self.position.epoch * self.prompts.len() as u64 + self.position.index as u64
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn restore(&mut self, position: Position) {
        self.position = Position { index: position.index.min(self.prompts.len()), ..position };
        self.shuffle();
    }

    fn shuffle(&mut self) {
        self.order = (0..self.prompts.len()).collect();
        self.order.shuffle(&mut stream(self.seed, &format!("prompts of epoch {}", self.position.epoch)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_comes_once_per_epoch_and_a_restored_stream_goes_on() {
        let prompts: Vec<Vec<u32>> = (0..7).map(|id| vec![id]).collect();
        let mut stream = PromptStream::new(prompts.clone(), 3);
        let epochs: Vec<Vec<u32>> = (0..3).map(|_| (0..7).map(|_| stream.advance()[0]).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        let position = stream.position();
        let expected: Vec<u32> = (0..10).map(|_| stream.advance()[0]).collect();
        let mut restored = PromptStream::new(prompts, 3);
        restored.restore(position);
        assert_eq!(restored.given(), 21);
        assert_eq!((0..10).map(|_| restored.advance()[0]).collect::<Vec<_>>(), expected);
    }
}
