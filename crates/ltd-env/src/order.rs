//! Numbers without end: each once per epoch, in an order that the seed decides.

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
    pub(crate) epoch: u64,
    pub(crate) index: usize,
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
    #[cfg(feature = "live")]
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
