//! Repeated measurements in interleaved order, and what is said of them.

use std::time::Duration;

use ltd_run::statistics::quartiles;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::error::Result;

/// Median and quartiles of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    /// First and third.
    pub(super) quartiles: [f64; 2],
}

impl Spread {
    /// Of at least one time, in milliseconds.
    pub(super) fn of_ms(times: impl IntoIterator<Item = Duration>) -> Self {
        let [low, median, high] = quartiles(times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect());
        Self { median, quartiles: [low, high] }
    }
}

/// Times every contender once per round, in an order drawn anew for each round: what disturbs the
/// machine for a while disturbs all alike, and none always follows the same other. The first
/// `warm_up` rounds are not counted; `progress` is told after each round. Returns the times of each
/// contender.
pub(super) fn interleaved<C>(
    contenders: &[C],
    warm_up: usize,
    rounds: usize,
    random: &mut impl Rng,
    mut time: impl FnMut(&C) -> Result<Duration>,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..warm_up + rounds {
        order.shuffle(random);
        for &index in &order {
            let elapsed = time(&contenders[index])?;
            if round >= warm_up {
                times[index].push(elapsed);
            }
        }
        progress(round + 1);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_runs_once_per_round_in_changing_order() {
        let mut order = Vec::new();
        let contenders = [1_u64, 2, 3, 4];
        let time = |&contender: &u64| {
            order.push(contender);
            Ok(Duration::from_millis(contender))
        };
        let mut rounds = 0;
        let mut random = ltd_env::stream(0, "test");
        let times = interleaved(&contenders, 2, 5, &mut random, time, |round| rounds = round).expect("times");
        for (contender, times) in contenders.iter().zip(times) {
            assert_eq!(times, [Duration::from_millis(*contender); 5]);
        }
        assert_eq!((rounds, order.len()), (7, 28));
        let chunks: Vec<_> = order.chunks(4).collect();
        for chunk in &chunks {
            let mut sorted = chunk.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, contenders);
        }
        assert!(chunks.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
