//! Replayed times that scatter as measured ones do.

use ltd_cycle::CycleTiming;
use ltd_policy::{LatencyTable, Surface};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::costs::Costs;
use crate::random::stream;

/// How measured times scatter: each sample of a latency table over the median of its grid point.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    root: Vec<f64>,
    level: Vec<f64>,
    verify: Vec<f64>,
}

impl Scatter {
    /// The scatter of a table without problems.
    pub fn of(table: &LatencyTable) -> Self {
        let ratios = |surface: &Surface| {
            let points = surface.points.iter();
            points
                .flat_map(|point| point.samples.iter().map(|&sample| f64::from(sample) / point.median))
                .collect()
        };
        Self { root: ratios(&table.root), level: ratios(&table.level), verify: ratios(&table.verify) }
    }
}

/// Times of cycles whose parts scatter independently of each other. Means are then those of the
/// samples, which a few slow ones raise above the medians that a table's times are.
pub(crate) struct Noise {
    scatter: Scatter,
    random: ChaCha8Rng,
}

impl Noise {
    /// Draws from the stream `replay noise` of `seed`.
    pub(crate) fn new(scatter: Scatter, seed: u64) -> Self {
        Self { scatter, random: stream(seed, "replay noise") }
    }

    /// [`Costs::timing`] with the root expansion, each level and the verification times a ratio
    /// drawn from the samples.
    pub(crate) fn timing(
        &mut self,
        costs: &Costs,
        level_rows: &[usize],
        size: usize,
        context_length: usize,
        rows: usize,
    ) -> CycleTiming {
        let Self { scatter, random } = self;
        let mut draw = |ratios: &[f64]| ratios[random.random_range(0..ratios.len())];
        let (model, context) = (&costs.model, context_length);
        let mut draft = costs.root_ms(rows, context) * draw(&scatter.root);
        for (depth, &rows) in (1..).zip(level_rows) {
            draft += model.level_ms(depth, rows, context) * draw(&scatter.level);
        }
        costs.cycle(level_rows.len(), draft, model.verify_ms(size, context) * draw(&scatter.verify))
    }

    /// [`Costs::copying`] with the verification times a ratio drawn from the samples.
    pub(crate) fn copying(&mut self, costs: &Costs, size: usize, context_length: usize) -> CycleTiming {
        let Self { scatter, random } = self;
        let ratio = scatter.verify[random.random_range(0..scatter.verify.len())];
        let timing = costs.copying(size, context_length);
        CycleTiming { verify: timing.verify.mul_f64(ratio), ..timing }
    }

    /// Where the stream stands: the generator is a counter.
    pub(crate) fn position(&self) -> String {
        self.random.get_word_pos().to_string()
    }

    /// Returns to a position; says whether it is one.
    pub(crate) fn restore(&mut self, position: &str) -> bool {
        let word = position.parse();
        word.map(|word| self.random.set_word_pos(word)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ltd_policy::{DecisionCost, GridPoint, LatencyIdentity};

    use super::*;

    /// Three samples at each point, of which the last is slow.
    fn table() -> LatencyTable {
        let surface = |ms: f64| {
            let mut surface = Surface::from_fn(&[1, 4], &[10, 100], |_, _| ms);
            for point in &mut surface.points {
                let samples = [0.9, 1.0, 1.4].map(|ratio| (ms * ratio) as f32);
                *point = GridPoint::new(point.count, point.context, samples.into());
            }
            surface
        };
        LatencyTable {
            version: LatencyTable::VERSION,
            identity: LatencyIdentity { beam_width: 10, ..LatencyIdentity::default() },
            root: surface(1.0),
            level: surface(2.0),
            level_rows: None,
            verify: surface(10.0),
            decision: DecisionCost { depth_us: 100.0, size_us: 200.0 },
            held_out_error: None,
        }
    }

    fn timings(seed: u64, count: usize) -> Vec<CycleTiming> {
        let table = table();
        let costs = Costs { model: table.model(), decision: table.decision };
        let mut noise = Noise::new(Scatter::of(&table), seed);
        (0..count).map(|_| noise.timing(&costs, &[10, 10], 3, 50, 1)).collect()
    }

    #[test]
    fn means_are_those_of_the_samples_and_decisions_take_their_time() {
        const CYCLES: usize = 20_000;
        let timings = timings(1, CYCLES);
        let mean_ms = |part: &dyn Fn(&CycleTiming) -> std::time::Duration| {
            timings.iter().map(|timing| part(timing).as_secs_f64() * 1e3).sum::<f64>() / CYCLES as f64
        };
        // Samples are 1.1 medians on average, and their mean is within four standard errors of it.
        let (draft, verify) = (mean_ms(&|timing| timing.draft), mean_ms(&|timing| timing.verify));
        assert!((draft - 5.5).abs() < 4.0 * 0.65 / (CYCLES as f64).sqrt(), "{draft}");
        assert!((verify - 11.0).abs() < 4.0 * 2.2 / (CYCLES as f64).sqrt(), "{verify}");
        assert!(timings.iter().all(|timing| timing.policy.as_micros() == 500));
        let mut verified: Vec<_> = timings.iter().map(|timing| timing.verify.as_micros()).collect();
        verified.sort_unstable();
        verified.dedup();
        assert_eq!(verified, [9_000, 10_000, 14_000]);
    }

    #[test]
    fn a_seed_has_its_times_and_a_restored_stream_goes_on() {
        assert_eq!(timings(1, 50), timings(1, 50));
        assert_ne!(timings(1, 50), timings(2, 50));
        let mut noise = Noise::new(Scatter::of(&table()), 1);
        let mut draw = || noise.random.random::<u64>();
        draw();
        draw();
        let position = noise.position();
        let next = noise.random.random::<u64>();
        let mut restored = Noise::new(Scatter::of(&table()), 1);
        assert!(restored.restore(&position) && !restored.restore("nowhere"));
        assert_eq!(restored.random.random::<u64>(), next);
    }
}
