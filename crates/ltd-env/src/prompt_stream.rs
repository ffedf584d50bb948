//! Prompts without end: each once per epoch, in an order that the seed decides.

use crate::order::{Order, Position};

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
