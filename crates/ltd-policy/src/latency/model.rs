//! Look-ups in a latency table: a few nanoseconds each, nothing allocated.

use std::ops::Range;

use super::isotonic::make_grid_non_decreasing;
use super::{GridPoint, LatencyTable, Surface};

/// A latency table readied for look-ups.
///
/// Times are the medians, linear between grid points and constant beyond them: whether the grid
/// reaches far enough is [`LatencyTable::covers`]'s question. They never fall with the context
/// length, nor with the count but where the samples leave no doubt: there are kernels that are
/// slower at two rows than at three.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyModel {
    root: Times,
    level: Times,
    /// Times of all levels up to a depth, from depth 0.
    levels: Times,
    /// Times of a level by the rows that it expands.
    level_rows: Option<Times>,
    beam_width: usize,
    verify: Times,
}

/// Milliseconds by every count from 0 and by the grid's context lengths.
#[derive(Debug, Clone, PartialEq)]
struct Times {
    contexts: Vec<f64>,
    /// `[counts][contexts]`.
    ms: Vec<f64>,
}

impl LatencyModel {
    pub(super) fn new(table: &LatencyTable) -> Self {
        let level = Times::new(&table.level);
        Self {
            root: Times::new(&table.root),
            levels: level.summed(),
            level,
            level_rows: table.level_rows.as_ref().map(Times::new),
            beam_width: table.identity.beam_width,
            verify: Times::new(&table.verify),
        }
    }

    /// Root expansion that reads `rows` newly accepted rows, in milliseconds.
    pub fn root_ms(&self, rows: usize, context: usize) -> f64 {
        self.root.at(rows, context)
    }

    /// Most rows of a root expansion that were measured, at least 1.
    pub fn most_root_rows(&self) -> usize {
        (self.root.ms.len() / self.root.contexts.len() - 1).max(1)
    }

    /// The draft level that makes the tree `depth` deep, from 1, and expands `rows` candidates:
    /// none take no time.
    pub fn level_ms(&self, depth: usize, rows: usize, context: usize) -> f64 {
        self.level.at(depth, context) * self.share(rows, context)
    }

    /// The levels after depth `drafted.start` up to `drafted.end`, each of which expands `rows`
    /// candidates.
    pub fn levels_ms(&self, drafted: Range<usize>, rows: usize, context: usize) -> f64 {
        let whole = self.levels.at(drafted.end, context) - self.levels.at(drafted.start, context);
        whole * self.share(rows, context)
    }

    /// What a level that expands `rows` candidates takes of one that expands all `W`.
    fn share(&self, rows: usize, context: usize) -> f64 {
        match &self.level_rows {
            _ if rows == 0 => 0.0,
            Some(times) if rows < self.beam_width => {
                times.at(rows, context) / times.at(self.beam_width, context)
            }
            _ => 1.0,
        }
    }

    /// Verification of `size` candidates, from their selection to the commit.
    pub fn verify_ms(&self, size: usize, context: usize) -> f64 {
        self.verify.at(size, context)
    }

    /// A whole cycle without its decisions, whose levels expand all `W` candidates. `rows` is the
    /// acceptance length of the cycle before.
    pub fn cycle_ms(&self, depth: usize, size: usize, context: usize, rows: usize) -> f64 {
        let levels = self.levels_ms(0..depth, self.beam_width, context);
        self.root_ms(rows, context) + levels + self.verify_ms(size, context)
    }
}

/// Whether the times of a higher count are lower beyond doubt, over all context lengths together.
fn certainly_falls(fewer: &[&GridPoint], more: &[&GridPoint]) -> bool {
    let total = |points: &[&GridPoint]| points.iter().map(|point| point.median).sum::<f64>();
    let doubt = |points: &[&GridPoint]| points.iter().map(|point| point.notch().powi(2)).sum::<f64>().sqrt();
    total(fewer) - total(more) > doubt(fewer) + doubt(more)
}

impl Times {
    fn new(surface: &Surface) -> Self {
        let (counts, contexts) = (surface.counts(), surface.contexts());
        let points: Vec<&GridPoint> = counts
            .iter()
            .flat_map(|&count| contexts.iter().map(move |&context| (count, context)))
            .map(|at| {
                let point = surface.points.iter().find(|point| (point.count, point.context) == at);
                point.expect("invariant: a table without problems has the whole grid")
            })
            .collect();
        let mut grid: Vec<f64> = points.iter().map(|point| point.median).collect();
        let rows: Vec<&[&GridPoint]> = points.chunks_exact(contexts.len()).collect();
        let mut rest = grid.as_mut_slice();
        for risen in rows.chunk_by(|fewer, more| !certainly_falls(fewer, more)) {
            let (block, after) = rest.split_at_mut(risen.len() * contexts.len());
            make_grid_non_decreasing(block, contexts.len());
            rest = after;
        }
        let last = *counts.last().expect("invariant: a table without problems has points");
        let ms = (0..=last).flat_map(|count| {
            let above = counts.partition_point(|&point| point < count);
            let below = if counts[above] == count { above } else { above.saturating_sub(1) };
            let width = (counts[above] - counts[below]).max(1) as f64;
            let part = (count.max(counts[below]) - counts[below]) as f64 / width;
            let row = |index: usize| &grid[index * contexts.len()..][..contexts.len()];
            row(below).iter().zip(row(above)).map(|(a, b)| a + part * (b - a)).collect::<Vec<_>>()
        });
        let ms = ms.collect();
        Self { contexts: contexts.into_iter().map(|context| context as f64).collect(), ms }
    }

    /// Sums over counts `1..=n`, for each `n` from 0.
    fn summed(&self) -> Self {
        let columns = self.contexts.len();
        let mut ms = self.ms.clone();
        ms[..columns].fill(0.0);
        for index in columns..ms.len() {
            ms[index] += ms[index - columns];
        }
        Self { contexts: self.contexts.clone(), ms }
    }

    fn at(&self, count: usize, context: usize) -> f64 {
        let columns = self.contexts.len();
        let last = self.ms.len() / columns - 1;
        let row = &self.ms[count.min(last) * columns..][..columns];
        let context = context as f64;
        let above = self.contexts.iter().take_while(|&&point| point < context).count();
        if above == 0 {
            return row[0];
        }
        if above == columns {
            return row[columns - 1];
        }
        let (start, end) = (self.contexts[above - 1], self.contexts[above]);
        row[above - 1] + (context - start) / (end - start) * (row[above] - row[above - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{surface, table};
    use super::*;
    use proptest::prelude::*;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-4 * expected.abs().max(1.0)
    }

    #[test]
    fn times_are_linear_between_grid_points_and_constant_beyond() {
        let model = table().model();
        assert!(near(model.verify_ms(40, 100), 33.0));
        assert!(near(model.verify_ms(140, 300), 65.0));
        assert!(near(model.root_ms(4, 200), 1.6));
        assert!(near(model.level_ms(6, 10, 100), 2.16) && near(model.level_ms(6, 4, 100), 2.16 * 1.4 / 2.0));
        assert_eq!(model.level_ms(6, 0, 100), 0.0);
        assert!(near(model.verify_ms(1, 0), model.verify_ms(1, 100)));
        assert!(near(model.verify_ms(240, 9000), model.verify_ms(240, 500)));
        assert!(near(model.verify_ms(999, 100), model.verify_ms(240, 100)));
        assert_eq!(model.levels_ms(0..0, 10, 100), 0.0);
    }

    #[test]
    fn a_cycle_is_the_sum_of_its_parts() {
        let model = table().model();
        for (depth, size, context, rows) in [(0, 4, 17, 1), (3, 60, 250, 4), (12, 240, 800, 13)] {
            let levels: f64 = (1..=depth).map(|level| model.level_ms(level, 10, context)).sum();
            let parts = model.root_ms(rows, context) + levels + model.verify_ms(size, context);
            assert!(near(model.cycle_ms(depth, size, context, rows), parts));
        }
    }

    #[test]
    fn a_fall_beyond_doubt_stays_and_one_within_the_noise_is_levelled() {
        let model_with = |scatter: f32| {
            let times = [(1, 16.0), (2, 13.0), (4, 13.5), (8, 17.0)];
            let points = times.iter().flat_map(|&(size, ms)| {
                [100, 500].map(|context| {
                    let samples = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|place| ms + scatter * place);
                    GridPoint::new(size, context, samples.to_vec())
                })
            });
            LatencyTable { verify: Surface { points: points.collect() }, ..table() }.model()
        };
        let quiet = model_with(0.1);
        assert_eq!([1, 2, 4, 8].map(|size| quiet.verify_ms(size, 300)), [16.0, 13.0, 13.5, 17.0]);
        let noisy = model_with(2.0);
        assert_eq!(noisy.verify_ms(1, 300), noisy.verify_ms(4, 300));
    }

    proptest! {
        #[test]
        fn times_never_decrease_within_the_noise(
            noise in prop::collection::vec(0.8f64..1.2, 12),
            from in (0usize..300, 0usize..900),
            step in (0usize..300, 0usize..900),
        ) {
            let verify = surface(&[1, 8, 60, 200], &[50, 300, 700], |size, context| {
                let place = size as usize * 7 + context as usize;
                (10.0 + 0.1 * size + 0.005 * context) * noise[place % 12]
            });
            let scattered = verify.points.into_iter().map(|point| {
                let samples = [0.8, 0.9, 1.0, 1.1, 1.2].map(|share| share * point.median as f32);
                GridPoint::new(point.count, point.context, samples.to_vec())
            });
            let verify = Surface { points: scattered.collect() };
            let model = LatencyTable { verify, ..table() }.model();
            let before = model.verify_ms(from.0, from.1);
            let after = model.verify_ms(from.0 + step.0, from.1 + step.1);
            prop_assert!(after >= before - 1e-9, "{} then {}", before, after);
        }
    }
}
