//! What is wrong with a latency table, or missing from it.

use std::ops::RangeInclusive;

use super::{GridPoint, LatencyTable, Surface, quantile};
use crate::action::{DepthActions, MAX_SIZE, SizeActions, tree_candidates};

/// Measurements that a median needs to mean something.
const MIN_SAMPLES: usize = 3;
/// More than any verification, depth or beam width is: a bound on what a file can ask for.
const MAX_COUNT: usize = MAX_SIZE;
/// More points than any measurement has: each is compared with each other.
const MAX_POINTS: usize = 10_000;
/// Milliseconds that a part of a cycle can take: from a tenth of a microsecond to an hour.
const POSSIBLE_MS: RangeInclusive<f32> = 1e-4..=3.6e6;
/// Microseconds that a decision can take: up to an hour.
const POSSIBLE_US: RangeInclusive<f64> = 0.0..=3.6e9;
/// A sample so many times the median of its point is no scatter.
const MOST_SCATTER: f64 = 1e6;
/// More work that took less than this share of the time was not measured, but disturbed.
const LEAST_SHARE: f64 = 2.0 / 3.0;
/// Statistics are those of the samples up to the rounding of numbers in text.
const ROUNDING: f64 = 1e-3;

impl LatencyTable {
    /// Everything impossible in the table, each naming its field; empty if it can be used.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=Self::VERSION).contains(&self.version) {
            problems.push(format!("version: is {}, must be 1 to {}", self.version, Self::VERSION));
        }
        let width = self.identity.beam_width;
        if width == 0 || width > MAX_COUNT {
            problems.push(format!("identity.beam_width: is {width}, must be 1..={MAX_COUNT}"));
        }
        for (name, surface, least) in
            [("root", &self.root, 2), ("level", &self.level, 1), ("verify", &self.verify, 2)]
        {
            let found = surface.problems(least);
            problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
        }
        if let Some(surface) = &self.level_rows {
            let found = surface.problems(1);
            problems.extend(found.into_iter().map(|problem| format!("level_rows: {problem}")));
            let most = surface.counts().last().copied().unwrap_or(0);
            if most != width && (1..=MAX_COUNT).contains(&width) {
                problems.push(format!("level_rows: is measured up to {most} rows, must be up to {width}"));
            }
        }
        for (name, us) in [("depth_us", self.decision.depth_us), ("size_us", self.decision.size_us)] {
            if !POSSIBLE_US.contains(&us) {
                problems
                    .push(format!("decision.{name}: is {us:?} microseconds, must be within {POSSIBLE_US:?}"));
            }
        }
        if let Some(error) = self.held_out_error {
            for (name, value) in [("median", error.median), ("p90", error.p90)] {
                if !(value.is_finite() && value >= 0.0) {
                    problems
                        .push(format!("held_out_error.{name}: is {value}, must be a number of at least 0"));
                }
            }
        }
        problems
    }

    /// What these actions need and the table lacks: costs are never extrapolated. Empty if nothing
    /// is missing.
    ///
    /// Sizes are compared after the cut to what a tree holds: `W + D * W * W` candidates.
    pub fn covers(&self, depths: &DepthActions, sizes: &SizeActions, max_context: usize) -> Vec<String> {
        let width = self.identity.beam_width;
        let held = |depth: usize, size: usize| size.min(tree_candidates(width, depth));
        let smallest = sizes.sizes.iter().map(|&size| held(depths.min_depth, size)).min().unwrap_or(1);
        let largest = sizes.sizes.iter().map(|&size| held(depths.max_depth, size)).max().unwrap_or(1);
        let deepest = depths.max_depth;
        let mut missing = Vec::new();
        for (name, surface, least, most, what) in [
            ("root", &self.root, 1, deepest + 1, "accepted rows"),
            ("level", &self.level, 1, deepest, "depths"),
            ("verify", &self.verify, smallest, largest, "verification sizes"),
        ] {
            let (counts, contexts) = (surface.counts(), surface.contexts());
            let (Some(first), Some(last), Some(&context)) = (counts.first(), counts.last(), contexts.last())
            else {
                missing.push(format!("{name}: has no points"));
                continue;
            };
            if *first > least || *last < most {
                missing
                    .push(format!("{name}: {what} {least} to {most} are needed, {first} to {last} measured"));
            }
            if context < max_context {
                missing.push(format!(
                    "{name}: context lengths up to {max_context} are needed, up to {context} measured"
                ));
            }
        }
        missing
    }
}

impl Surface {
    fn problems(&self, least_counts: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let (counts, contexts) = (self.counts(), self.contexts());
        if self.points.is_empty() {
            return vec!["has no points".to_owned()];
        }
        if self.points.len() > MAX_POINTS {
            return vec![format!("has {} points, must have at most {MAX_POINTS}", self.points.len())];
        }
        if counts.len() < least_counts {
            problems.push(format!("has {} counts, must have at least {least_counts}", counts.len()));
        }
        if counts[0] == 0 || counts[counts.len() - 1] > MAX_COUNT {
            problems.push(format!(
                "counts are {} to {}, must be within 1 to {MAX_COUNT}",
                counts[0],
                counts[counts.len() - 1]
            ));
        }
        for point in &self.points {
            let at = format!("at count {}, context {}", point.count, point.context);
            problems.extend(point.problems().into_iter().map(|problem| format!("{at}: {problem}")));
        }
        // Each comparison below reads the whole grid.
        if self.points.len() != counts.len() * contexts.len() || !self.is_distinct() {
            problems.push(format!(
                "has {} points, must have each of {} counts at each of {} context lengths once",
                self.points.len(),
                counts.len(),
                contexts.len()
            ));
        }
        if problems.is_empty() {
            problems.extend(self.disturbance());
        }
        problems
    }

    fn is_distinct(&self) -> bool {
        let mut places: Vec<_> = self.points.iter().map(|point| (point.count, point.context)).collect();
        places.sort_unstable();
        places.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// The worst case of more work in less time.
    fn disturbance(&self) -> Option<String> {
        let pairs = self.points.iter().flat_map(|less| self.points.iter().map(move |more| (less, more)));
        let (less, more) = pairs
            .filter(|(less, more)| less.count <= more.count && less.context <= more.context)
            .min_by(|a, b| (a.1.median / a.0.median).total_cmp(&(b.1.median / b.0.median)))?;
        (more.median < LEAST_SHARE * less.median).then(|| {
            format!(
                "count {} at context {} took {:.3} ms and count {} at context {} {:.3} ms: \
                 more work cannot be that much faster, measure again on a quiet machine",
                less.count, less.context, less.median, more.count, more.context, more.median
            )
        })
    }
}

impl GridPoint {
    /// All impossible about it.
    fn problems(&self) -> Vec<String> {
        let samples = &self.samples;
        if samples.len() < MIN_SAMPLES {
            return vec![format!("has {} samples, must have at least {MIN_SAMPLES}", samples.len())];
        }
        if let Some(ms) = samples.iter().find(|ms| !POSSIBLE_MS.contains(*ms)) {
            return vec![format!("a sample is {ms:?}, must be within {POSSIBLE_MS:?} milliseconds")];
        }
        let median = quantile(samples, 0.5);
        if let Some(ms) = samples.iter().find(|ms| f64::from(**ms) > MOST_SCATTER * median) {
            return vec![format!(
                "a sample is {ms:?}, more than {MOST_SCATTER} times the median, {median:?}"
            )];
        }
        let claimed = [("low", self.low, 0.25), ("median", self.median, 0.5), ("high", self.high, 0.75)];
        let wrong = claimed.into_iter().filter_map(|(name, found, q)| {
            let expected = quantile(samples, q);
            let agrees = (found - expected).abs() <= ROUNDING * expected;
            (!agrees).then(|| format!("{name} is {found:?}, but the samples give {expected}"))
        });
        wrong.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{surface, table};
    use super::*;
    use crate::latency::GridPoint;

    fn problem_of(change: impl FnOnce(&mut LatencyTable)) -> String {
        let mut table = table();
        change(&mut table);
        let problems = table.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn impossible_tables_are_named() {
        assert!(table().problems().is_empty());
        let found = problem_of(|t| t.root.points.clear());
        assert_eq!(found, "root: has no points");
        let found = problem_of(|t| t.verify.points[1].samples[0] = f32::NAN);
        assert!(found.contains("verify: at count 40, context 100: a sample is NaN"), "{found}");
        let found = problem_of(|t| t.level.points[0].samples[2] = 0.0);
        assert!(found.contains("level: at count 1, context 100: a sample is 0"), "{found}");
        for ms in [1e30, -1.0, 1e-30, f32::INFINITY] {
            let found = problem_of(|t| t.verify.points[1].samples[0] = ms);
            let expected = format!("verify: at count 40, context 100: a sample is {ms:?}, must be within");
            assert!(found.contains(&expected), "{found}");
        }
        let found = problem_of(|t| t.root.points[0] = GridPoint::new(1, 100, vec![1e-3, 1e-3, 1e6]));
        assert!(found.contains("root: at count 1, context 100: a sample is 1000000.0, more than"), "{found}");
        let many = (1..=MAX_POINTS + 1).map(|context| GridPoint::new(1, context, vec![1.0; 3]));
        let many = Surface { points: many.collect() };
        let found = problem_of(|t| t.level = many);
        assert_eq!(found, "level: has 10001 points, must have at most 10000");
        let found = problem_of(|t| t.decision.depth_us = 1e300);
        assert!(
            found.starts_with("decision.depth_us: is 1e300 microseconds, must be within 0.0..="),
            "{found}"
        );
        let found = problem_of(|t| t.level.points[0].samples.truncate(2));
        assert!(found.contains("has 2 samples, must have at least 3"), "{found}");
        let found = problem_of(|t| t.level.points[0].median = f64::NAN);
        assert!(found.contains("median is NaN, but the samples give 2.1"), "{found}");
        let found = problem_of(|t| _ = t.verify.points.pop());
        assert!(found.contains("has 5 points, must have each of 3 counts at each of 2 context"), "{found}");
        let found = problem_of(|t| t.verify.points[1] = t.verify.points[0].clone());
        assert!(found.contains("once"), "{found}");
        let found = problem_of(|t| t.verify = surface(&[4], &[100], |_, _| 1.0));
        assert!(found.contains("verify: has 1 counts, must have at least 2"), "{found}");
        let found = problem_of(|t| t.verify = surface(&[1, 1_000_000], &[100], |_, _| 1.0));
        assert!(found.contains("must be within 1 to 4096"), "{found}");
        let found = problem_of(|t| t.decision.size_us = f64::INFINITY);
        assert!(found.starts_with("decision.size_us: is inf"), "{found}");
        let found = problem_of(|t| t.identity.beam_width = 0);
        assert_eq!(found, "identity.beam_width: is 0, must be 1..=4096");
        problem_of(|t| t.identity.beam_width = usize::MAX);
    }

    #[test]
    fn more_work_in_half_the_time_is_nonsense_and_a_little_noise_is_not() {
        let with = |share: f32| {
            let mut table = table();
            let first = table.verify.points[0].samples[1];
            table.verify.points[1] = GridPoint::new(40, 100, vec![first * share; 3]);
            table.problems()
        };
        assert!(with(0.5)[0].contains("verify: count 1 at context 100 took 21.3"), "{:?}", with(0.5));
        assert!(with(0.9).is_empty(), "{:?}", with(0.9));
    }

    #[test]
    fn what_the_actions_need_and_the_table_lacks_is_named() {
        let sizes = SizeActions { sizes: vec![4, 240] };
        let depths = DepthActions::default();
        assert!(table().covers(&depths, &sizes, 500).is_empty());
        let missing = table().covers(&depths, &SizeActions { sizes: vec![4, 300] }, 501);
        assert_eq!(missing.len(), 4, "{missing:?}");
        assert!(
            missing.contains(&"verify: verification sizes 4 to 300 are needed, 1 to 240 measured".to_owned())
        );
        assert!(missing[0].contains("root: context lengths up to 501 are needed, up to 500"), "{missing:?}");
        let shallow = LatencyTable { level: surface(&[1, 5], &[500], |_, _| 2.0), ..table() };
        let missing = shallow.covers(&depths, &sizes, 500);
        assert_eq!(missing, ["level: depths 1 to 12 are needed, 1 to 5 measured"]);
        let mut nonsense = table();
        nonsense.identity.beam_width = usize::MAX;
        assert!(nonsense.covers(&depths, &sizes, 500).is_empty());
        // A shallow tree holds fewer candidates than the largest size.
        let depths = DepthActions { min_depth: 0, max_depth: 2, decide_every: 1 };
        assert!(table().covers(&depths, &SizeActions { sizes: vec![4, 300] }, 500).is_empty());
    }
}
