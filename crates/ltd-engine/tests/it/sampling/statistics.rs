//! Chi-square tests.

/// How well counts fit: Pearson's statistic and its degrees of freedom. Fits of independent samples
/// add up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fit {
    statistic: f64,
    freedom: f64,
}

/// Counts below this are pooled: the statistic's distribution is that of the limit.
const LEAST_EXPECTED: f64 = 5.0;

impl Fit {
    /// Counts against the probabilities of the same cells.
    pub(crate) fn of(counts: &[f64], probabilities: &[f64]) -> Self {
        let total: f64 = counts.iter().sum();
        let cells = counts.iter().zip(probabilities).map(|(&count, &p)| (count, p * total));
        let cells = pooled(cells.collect(), |(_, expected)| expected);
        Self {
            statistic: cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum(),
            freedom: cells.len() as f64 - 1.0,
        }
    }

    /// Two samples of the same size over the same cells: do they have one distribution?
    pub(crate) fn of_two(first: &[f64], second: &[f64]) -> Self {
        let cells = first.iter().zip(second).map(|(&a, &b)| (a, b));
        let cells = pooled(cells.collect(), |(a, b)| f64::midpoint(a, b));
        Self {
            statistic: cells.iter().map(|(a, b)| (a - b).powi(2) / (a + b)).sum(),
            freedom: cells.len() as f64 - 1.0,
        }
    }

    /// The statistic as a standard normal variable (Wilson and Hilferty 1931): 2.33 is p = 0.01.
    pub(crate) fn z(&self) -> f64 {
        let spread = 2.0 / (9.0 * self.freedom);
        ((self.statistic / self.freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
    }

    /// Whether p > 0.01.
    pub(crate) fn is_good(&self) -> bool {
        assert!(self.freedom >= 1.0, "too few cells to tell anything: {self:?}");
        self.z() < 2.326
    }

    /// Whether p > 0.0001: so that of up to a hundred tests that must all hold, the family has p >
    /// 0.01.
    pub(crate) fn is_good_in_family(&self) -> bool {
        self.freedom < 1.0 || self.z() < 3.719
    }
}

impl std::iter::Sum for Fit {
    fn sum<I: Iterator<Item = Self>>(fits: I) -> Self {
        fits.fold(Self::default(), |a, b| Self {
            statistic: a.statistic + b.statistic,
            freedom: a.freedom + b.freedom,
        })
    }
}

/// Puts all cells that are too small into one; cells where nothing is expected and nothing was
/// found go.
fn pooled(cells: Vec<(f64, f64)>, expected: impl Fn((f64, f64)) -> f64) -> Vec<(f64, f64)> {
    let (mut large, small): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|&cell| expected(cell) >= LEAST_EXPECTED);
    let rest = small.into_iter().fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
    if expected(rest) > 0.0 {
        match large.last_mut() {
            // The rest is too small itself.
            Some(last) if expected(rest) < LEAST_EXPECTED => *last = (last.0 + rest.0, last.1 + rest.1),
            _ => large.push(rest),
        }
    }
    large
}

#[test]
fn the_statistic_has_the_quantiles_of_tables() {
    // Upper 1 % points of the chi-square distribution.
    for (freedom, quantile) in [(1.0, 6.635), (5.0, 15.086), (30.0, 50.892), (100.0, 135.807)] {
        let z = |statistic: f64| Fit { statistic, freedom }.z();
        assert!(z(quantile * 0.98) < 2.326 && z(quantile * 1.02) > 2.326, "{freedom}");
    }
    let (fair, biased) = (Fit::of(&[500.0, 520.0], &[0.5; 2]), Fit::of(&[440.0, 580.0], &[0.5; 2]));
    assert!(fair.is_good() && !biased.is_good() && !biased.is_good_in_family());
    assert!(!Fit::of_two(&[450.0, 570.0], &[570.0, 450.0]).is_good());
}
