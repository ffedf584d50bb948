//! Who makes the other decision while one policy learns.

use ltd_cycle::Controller;
use ltd_policy::CycleSummary;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::random::stream;

/// A depth drawn uniformly for each cycle, and a fixed size: lets a size policy see trees of every
/// depth.
#[derive(Debug, Clone)]
pub struct RandomDepth {
    depths: std::ops::RangeInclusive<usize>,
    size: usize,
    random: ChaCha8Rng,
    depth: usize,
}

impl RandomDepth {
    /// Depths from `depths`, drawn from the stream `random-depth` of `seed`.
    pub fn new(depths: std::ops::RangeInclusive<usize>, size: usize, seed: u64) -> Self {
        Self { depth: *depths.start(), depths, size, random: stream(seed, "random-depth") }
    }
}

impl Controller for RandomDepth {
    fn begin_cycle(&mut self) {
        self.depth = self.random.random_range(self.depths.clone());
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }

    fn state(&self) -> serde_json::Value {
        // The generator is a counter: its position says all.
        serde_json::json!({ "word": self.random.get_word_pos().to_string(), "depth": self.depth })
    }

    fn restore(&mut self, state: &serde_json::Value) {
        let word = state["word"].as_str().and_then(|word| word.parse().ok());
        if let (Some(word), Some(depth)) = (word, state["depth"].as_u64()) {
            self.random.set_word_pos(word);
            self.depth = depth as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_depth_is_drawn_and_a_restored_stream_goes_on() {
        let mut counterpart = RandomDepth::new(1..=12, 60, 5);
        let draw = |counterpart: &mut RandomDepth| {
            counterpart.begin_cycle();
            counterpart.depth
        };
        let drawn: std::collections::BTreeSet<usize> = (0..500).map(|_| draw(&mut counterpart)).collect();
        assert_eq!(drawn, (1..=12).collect());
        let state = counterpart.state();
        let expected: Vec<usize> = (0..20).map(|_| draw(&mut counterpart)).collect();
        let mut restored = RandomDepth::new(1..=12, 60, 5);
        restored.restore(&state);
        assert_eq!((0..20).map(|_| draw(&mut restored)).collect::<Vec<_>>(), expected);
    }
}
