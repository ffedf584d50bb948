//! Prompts without end: each once per epoch, in an order that the seed decides.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::random::stream;

/// Numbers `0..count` without end, each once per epoch, in an order that is drawn anew; resumable.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    seed: u64,
    position: Position,
    numbers: Vec<usize>,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    epoch: u64,
    index: usize,
}

impl Order {
    /// An order of at least one number.
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        assert!(count > 0, "an order needs a number");
        let mut order = Self { seed, position: Position::default(), numbers: (0..count).collect() };
        order.shuffle();
        order
    }

    /// The next number.
    pub(crate) fn advance(&mut self) -> usize {
        if self.position.index == self.numbers.len() {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
            self.shuffle();
        }
        self.position.index += 1;
        self.numbers[self.position.index - 1]
    }

    /// The number that [`Order::advance`] gave last, if there is one in this epoch.
    pub(crate) fn current(&self) -> Option<usize> {
        self.numbers.get(self.position.index.checked_sub(1)?).copied()
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn restore(&mut self, position: Position) {
        self.position = Position { index: position.index.min(self.numbers.len()), ..position };
        self.shuffle();
    }

    fn shuffle(&mut self) {
        self.numbers.sort_unstable();
        self.numbers.shuffle(&mut stream(self.seed, &format!("prompts of epoch {}", self.position.epoch)));
    }
}

/// An endless, shuffled, resumable sequence over a set of prompts.
#[derive(Debug, Clone)]
pub struct PromptStream {
    prompts: Vec<Vec<u32>>,
    order: Order,
}

impl PromptStream {
    /// A stream over prompts in token ids.
    ///
    /// # Panics
    /// If there is no prompt.
    pub fn new(prompts: Vec<Vec<u32>>, seed: u64) -> Self {
        let order = Order::new(prompts.len(), seed);
        Self { prompts, order }
    }

    /// How many prompts there are.
    pub(crate) fn len(&self) -> usize {
        self.prompts.len()
    }

    /// The next prompt.
    pub(crate) fn advance(&mut self) -> &[u32] {
        &self.prompts[self.order.advance()]
    }

    /// The prompt that [`PromptStream::advance`] gave last, if there is one in this epoch.
    pub(crate) fn current(&self) -> Option<&[u32]> {
        self.order.current().map(|prompt| self.prompts[prompt].as_slice())
    }

    /// How many prompts [`PromptStream::advance`] has given.
    pub(crate) fn given(&self) -> u64 {
        let Position { epoch, index } = self.position();
        epoch * self.prompts.len() as u64 + index as u64
    }

    pub(crate) fn position(&self) -> Position {
        self.order.position()
    }

    pub(crate) fn restore(&mut self, position: Position) {
        self.order.restore(position);
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
