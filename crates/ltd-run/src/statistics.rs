//! How sure measured throughputs are.

use std::collections::BTreeMap;

use ltd_engine::CycleStats;
use ltd_env::stream;
use rand::Rng;

/// Often enough for the 99.9 % intervals of many comparisons.
const RESAMPLES: usize = 4000;

/// How sure an interval is where nothing else is said.
pub const CONFIDENCE: f64 = 0.95;

/// The 95 % interval of `sum(tau) / sum(T)` over prompts.
pub fn interval(prompts: &[CycleStats]) -> (f64, f64) {
    let totals = totals(prompts);
    bootstrap(&[totals.len()], |drawn| rate(&drawn[0], &totals)).interval(CONFIDENCE)
}

/// The 95 % interval of the ratio of two throughputs on the same prompts: prompts differ more than
/// the contenders do, and that cancels when both are resampled together.
pub fn ratio_interval(of: &[CycleStats], over: &[CycleStats]) -> (f64, f64) {
    Resampled::mean_ratio(&[(of, over)]).interval(CONFIDENCE)
}

/// A statistic of many resamples, ascending.
#[derive(Debug, Clone)]
pub struct Resampled(Vec<f64>);

impl Resampled {
    /// The mean over tasks of ratios of two throughputs on the same prompts, which are resampled
    /// within their task.
    pub fn mean_ratio(tasks: &[(&[CycleStats], &[CycleStats])]) -> Self {
        let totals: Vec<_> = tasks.iter().map(|(of, over)| (totals(of), totals(over))).collect();
        let sizes: Vec<usize> = totals.iter().map(|(of, _)| of.len()).collect();
        bootstrap(&sizes, |drawn| {
            let tasks = drawn.iter().zip(&totals);
            let ratios = tasks.map(|(drawn, (of, over))| rate(drawn, of) / rate(drawn, over));
            ratios.sum::<f64>() / totals.len() as f64
        })
    }

    /// Where the middle of the resamples lies.
    pub fn interval(&self, confidence: f64) -> (f64, f64) {
        let outside = (RESAMPLES as f64 * (1.0 - confidence) / 2.0).round() as usize;
        (self.0[outside], self.0[RESAMPLES - 1 - outside])
    }
}

/// Tokens and seconds of each prompt.
fn totals(prompts: &[CycleStats]) -> Vec<(f64, f64)> {
    prompts.iter().map(|stats| (stats.tokens as f64, stats.timing.total().as_secs_f64())).collect()
}

/// Throughput over the drawn prompts.
fn rate(drawn: &[usize], totals: &[(f64, f64)]) -> f64 {
    let sum = |part: fn(&(f64, f64)) -> f64| drawn.iter().map(|&index| part(&totals[index])).sum::<f64>();
    let (tokens, seconds) = (sum(|total| total.0), sum(|total| total.1));
    if seconds > 0.0 { tokens / seconds } else { 0.0 }
}

/// A statistic of prompts drawn with replacement, each task's among its own (bootstrap, 4000
/// resamples, fixed stream).
fn bootstrap(sizes: &[usize], statistic: impl Fn(&[Vec<usize>]) -> f64) -> Resampled {
    let mut random = stream(0, "bootstrap");
    let mut drawn: Vec<Vec<usize>> = sizes.iter().map(|&prompts| vec![0; prompts]).collect();
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for drawn in &mut drawn {
                let prompts = drawn.len();
                drawn.fill_with(|| random.random_range(0..prompts));
            }
            statistic(&drawn)
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    Resampled(values)
}

/// First quartile, median and third quartile of values (nearest rank).
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Entropy in bits of choices that were made so often.
pub fn entropy(counts: &BTreeMap<usize, usize>) -> f64 {
    let total: usize = counts.values().sum();
    let shares = counts.values().filter(|count| **count > 0).map(|count| *count as f64 / total as f64);
    shares.map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_engine::CycleTiming;

    use super::*;

    fn prompt(tokens: usize, milliseconds: u64) -> CycleStats {
        let timing = CycleTiming { verify: Duration::from_millis(milliseconds), ..CycleTiming::default() };
        CycleStats { tokens, timing, ..CycleStats::default() }
    }

    #[test]
    fn equal_prompts_leave_no_doubt_and_different_ones_do() {
        let (low, high) = interval(&vec![prompt(10, 100); 8]);
        assert!((low - 100.0).abs() < 1e-9 && (high - 100.0).abs() < 1e-9);
        let mixed = [prompt(10, 100), prompt(20, 100), prompt(30, 100), prompt(40, 100)];
        let (low, high) = interval(&mixed);
        assert!((100.0..200.0).contains(&low) && (300.0..=400.0).contains(&high), "{low} {high}");
    }

    #[test]
    fn what_prompts_have_in_common_leaves_no_doubt_about_a_ratio() {
        let slow = [prompt(10, 100), prompt(20, 100), prompt(30, 100), prompt(40, 100)];
        let fast = [prompt(10, 50), prompt(20, 50), prompt(30, 50), prompt(40, 50)];
        let (low, high) = ratio_interval(&fast, &slow);
        assert!((low - 2.0).abs() < 1e-9 && (high - 2.0).abs() < 1e-9, "{low} {high}");
        let uneven = [prompt(10, 50), prompt(20, 200), prompt(30, 50), prompt(40, 200)];
        let (low, high) = ratio_interval(&uneven, &slow);
        assert!(low < 0.7 && high > 1.0, "{low} {high}");
    }

    #[test]
    fn a_mean_over_tasks_weighs_them_alike_and_more_confidence_is_wider() {
        let slow = [prompt(10, 100), prompt(20, 100)];
        let [twice, four_times] = [50, 25].map(|ms| [prompt(10, ms), prompt(20, ms), prompt(20, ms)]);
        let mean = Resampled::mean_ratio(&[(&twice[..2], &slow), (&four_times[..2], &slow)]).interval(0.95);
        assert_eq!(mean, (3.0, 3.0));
        let uneven = [prompt(10, 50), prompt(20, 200), prompt(30, 50), prompt(40, 200), prompt(50, 80)];
        let plain: Vec<CycleStats> = (1..=5).map(|tens| prompt(10 * tens, 100)).collect();
        let (low, high) = ratio_interval(&uneven, &plain);
        let (lower, higher) = Resampled::mean_ratio(&[(&uneven, &plain)]).interval(0.999);
        assert!(lower < low && high < higher, "{lower} {low} {high} {higher}");
    }

    #[test]
    fn choices_tell_as_many_bits_as_it_takes_to_name_them() {
        assert_eq!(entropy(&BTreeMap::from([(4, 10)])), 0.0);
        assert_eq!(entropy(&BTreeMap::new()), 0.0);
        let found = entropy(&BTreeMap::from([(2, 10), (4, 5), (8, 5)]));
        assert!((found - 1.5).abs() < 1e-12, "{found}");
    }

    #[test]
    fn quartiles_are_values_of_the_sample() {
        assert_eq!(quartiles(vec![5.0, 1.0, 3.0, 2.0, 4.0]), [2.0, 3.0, 4.0]);
        assert_eq!(quartiles(vec![7.0]), [7.0; 3]);
    }
}
