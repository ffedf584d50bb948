//! How sure measured throughputs are.

use std::collections::BTreeMap;

use ltd_engine::CycleStats;
use ltd_env::stream;
use rand::Rng;

const RESAMPLES: usize = 1000;

/// The 95 % interval of `sum(tau) / sum(T)` over prompts.
pub fn interval(prompts: &[CycleStats]) -> (f64, f64) {
    let totals = totals(prompts);
    bootstrap(totals.len(), |drawn| rate(drawn, &totals))
}

/// The 95 % interval of the ratio of two throughputs on the same prompts: prompts differ more than
/// the contenders do, and that cancels when both are resampled together.
pub fn ratio_interval(of: &[CycleStats], over: &[CycleStats]) -> (f64, f64) {
    let (of, over) = (totals(of), totals(over));
    bootstrap(of.len(), |drawn| rate(drawn, &of) / rate(drawn, &over))
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

/// The middle 95 % of a statistic of prompts drawn with replacement (percentile bootstrap, 1000
/// resamples, fixed stream).
fn bootstrap(prompts: usize, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut random = stream(0, "bootstrap");
    let mut drawn = vec![0; prompts];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.fill_with(|| random.random_range(0..prompts));
            statistic(&drawn)
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    (values[RESAMPLES / 40], values[RESAMPLES - 1 - RESAMPLES / 40])
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
