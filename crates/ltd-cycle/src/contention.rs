//! Which candidates of a level are worth expanding.

/// Follows, level after level, which candidates are among the best `limit` of all so far. A cycle
/// that verifies no more than `limit` candidates verifies none of the others, nor what could grow
/// from them: scores never grow along a path, so that a place that is lost stays lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Contention {
    beam_width: usize,
    limit: usize,
    /// Candidates so far.
    seen: u32,
    /// The best of them, in no order but that the worst comes last if there are as many as the
    /// limit.
    best: Vec<Place>,
}

/// A candidate among others: its score, and how many came before it.
type Place = (f32, u32);

impl Contention {
    /// Nothing drafted; `beam_width` candidates of a level are expanded at most.
    pub fn new(beam_width: usize, limit: usize) -> Self {
        Self { beam_width, limit, seen: 0, best: Vec::new() }
    }

    /// Candidates that may be verified.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adds the scores of a level (minus infinity: no candidate) and says how many of its best
    /// candidates are to be expanded; with none, no deeper level can be verified.
    pub fn add_level(&mut self, scores: &[f32]) -> usize {
        if self.limit == usize::MAX {
            return self.beam_width;
        }
        if self.limit == 0 {
            return 0;
        }
        let first = self.seen;
        self.seen += scores.len() as u32;
        // Of equal scores, the earlier candidate is the better one.
        let full = self.best.len() == self.limit;
        let cut = if full { self.best[self.limit - 1].0 } else { f32::NEG_INFINITY };
        self.best.extend(
            (first..).zip(scores).filter(|(_, score)| **score > cut).map(|(order, &score)| (score, order)),
        );
        if self.best.len() >= self.limit {
            let by_score = |a: &Place, b: &Place| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            self.best.select_nth_unstable_by(self.limit - 1, by_score);
            self.best.truncate(self.limit);
        }
        self.best.iter().filter(|(_, order)| *order >= first).count().min(self.beam_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_expanded_has_a_place_among_the_best(
            limit in 1usize..40,
            width in 1usize..6,
            levels in prop::collection::vec(prop::collection::vec(-8i8..0, 1..20), 1..6),
        ) {
            let mut contention = Contention::new(width, limit);
            let mut all: Vec<f32> = Vec::new();
            for level in levels {
                let level: Vec<f32> = level.into_iter().map(f32::from).collect();
                let start = all.len();
                all.extend(&level);
                let mut order: Vec<usize> = (0..all.len()).collect();
                order.sort_by(|&a, &b| all[b].total_cmp(&all[a]).then(a.cmp(&b)));
                let expected = order.iter().take(limit).filter(|&&index| index >= start).count();
                prop_assert_eq!(contention.add_level(&level), expected.min(width));
            }
        }
    }

    #[test]
    fn without_a_limit_the_whole_beam_is_expanded() {
        assert_eq!(Contention::new(3, usize::MAX).add_level(&[-1.0, -2.0, -3.0]), 3);
        assert_eq!(Contention::new(3, 2).add_level(&[-1.0, f32::NEG_INFINITY, f32::NEG_INFINITY]), 1);
    }
}
