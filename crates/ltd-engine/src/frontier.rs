//! Which candidates of a level are worth expanding.

/// Follows, level after level, which candidates are among the best `limit` of all so far. A cycle that verifies no more
/// than `limit` candidates verifies none of the others, nor what could grow from them: scores never grow along a path,
/// so that a place that is lost stays lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Contention {
    beam_width: usize,
    limit: usize,
    /// The best candidates so far, best first, and whether they are of the newest level.
    best: Vec<(f32, bool)>,
}

impl Contention {
    /// Nothing drafted; `beam_width` candidates of a level are expanded at most.
    pub fn new(beam_width: usize, limit: usize) -> Self {
        Self { beam_width, limit, best: Vec::new() }
    }

    /// Candidates that may be verified.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adds the scores of a level (minus infinity: no candidate) and says how many of its best candidates are to be
    /// expanded; with none, no deeper level can be verified.
    pub fn add_level(&mut self, scores: &[f32]) -> usize {
        if self.limit == usize::MAX {
            return self.beam_width;
        }
        for (_, newest) in &mut self.best {
            *newest = false;
        }
        for &score in scores.iter().filter(|score| **score > f32::NEG_INFINITY) {
            if self.best.len() >= self.limit && self.best.last().is_none_or(|(worst, _)| score <= *worst) {
                continue;
            }
            // Of equal scores, the earlier candidate is the better one.
            let place = self.best.partition_point(|(better, _)| *better >= score);
            if place < self.limit {
                self.best.truncate(self.limit - 1);
                self.best.insert(place, (score, true));
            }
        }
        self.best.iter().filter(|(_, newest)| *newest).count().min(self.beam_width)
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
