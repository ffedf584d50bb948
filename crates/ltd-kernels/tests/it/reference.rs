//! What kernels are compared with, and what they are given.

use half::{bf16, f16};
use ltd_kernels::{Cpu, Float, InstructionSet, Linear, Panels, RowNorm, Scoped, Serial, Threads};

/// A number type of tests.
pub(crate) trait Tested: Float + PartialEq + std::fmt::Debug {
    const NAME: &str;
    /// Largest relative error of rounding.
    const ROUNDING: f64;

    fn rounded(value: f64) -> Self;
    fn value(self) -> f64;
}

impl Tested for f32 {
    const NAME: &str = "f32";
    const ROUNDING: f64 = 6e-8;

    fn rounded(value: f64) -> Self {
        value as f32
    }

    fn value(self) -> f64 {
        self.into()
    }
}

impl Tested for bf16 {
    const NAME: &str = "bf16";
    const ROUNDING: f64 = 1.0 / 256.0;

    fn rounded(value: f64) -> Self {
        Self::from_f64(value)
    }

    fn value(self) -> f64 {
        self.into()
    }
}

impl Tested for f16 {
    const NAME: &str = "f16";
    const ROUNDING: f64 = 1.0 / 2048.0;

    fn rounded(value: f64) -> Self {
        Self::from_f64(value)
    }

    fn value(self) -> f64 {
        self.into()
    }
}

/// All instruction sets of this processor, on one thread and on several.
pub(crate) fn cpus() -> impl Iterator<Item = Cpu<'static>> {
    const THREADS: [&dyn Threads; 2] = [&Serial, &Scoped(3)];
    InstructionSet::available().flat_map(|instructions| THREADS.map(|threads| Cpu { instructions, threads }))
}

/// Numbers as a normal distribution makes them, always the same.
pub(crate) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> f64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// So many, of the standard deviation `scale`.
    pub(crate) fn numbers<T: Tested>(&mut self, count: usize, scale: f64) -> Vec<T> {
        let normal = |random: &mut Self| (0..12).map(|_| random.next()).sum::<f64>() - 6.0;
        (0..count).map(|_| T::rounded(scale * normal(self))).collect()
    }
}

pub(crate) fn values<T: Tested>(numbers: &[T]) -> Vec<f64> {
    numbers.iter().map(|number| number.value()).collect()
}

/// A weight as it is and as it is multiplied, and its bias.
pub(crate) struct Weight<T> {
    pub(crate) plain: Vec<T>,
    pub(crate) packed: Panels<T>,
    pub(crate) bias: Option<Vec<T>>,
}

impl<T: Tested> Weight<T> {
    pub(crate) fn new(cpu: Cpu, random: &mut Random, [outputs, inputs]: [usize; 2], biased: bool) -> Self {
        let plain = random.numbers(outputs * inputs, 1.0 / (inputs as f64).sqrt());
        let packed = Panels::pack(cpu, &plain, [outputs, inputs]).expect("an even number of inputs");
        Self { plain, packed, bias: biased.then(|| random.numbers(outputs, 1.0)) }
    }

    pub(crate) fn linear(&self) -> Linear<'_, T> {
        Linear { weight: &self.packed, bias: self.bias.as_deref() }
    }

    /// `[n, inputs] -> [n, outputs]`.
    pub(crate) fn product(&self, x: &[f64]) -> Vec<f64> {
        let outputs = self.packed.outputs();
        let (weight, bias) = (values(&self.plain), self.bias.as_ref().map(|bias| values(bias)));
        let row = |x: &[f64]| {
            let of_output = |output: usize| {
                let weights = &weight[output * x.len()..][..x.len()];
                let sum: f64 = weights.iter().zip(x).map(|(weight, x)| weight * x).sum();
                sum + bias.as_ref().map_or(0.0, |bias| bias[output])
            };
            (0..outputs).map(of_output).collect::<Vec<f64>>()
        };
        x.chunks_exact(self.packed.inputs()).flat_map(row).collect()
    }
}

pub(crate) fn normed<T: Tested>(x: &[f64], norm: RowNorm<T>) -> Vec<f64> {
    let weight = values(norm.weight);
    let row = |x: &[f64]| {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        x.iter().zip(&weight).map(|(x, weight)| x * factor * weight).collect::<Vec<f64>>()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Fails unless all numbers are close to those expected, in units of `scale`.
pub(crate) fn assert_close<T: Tested>(found: &[T], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found.value() - expected).abs();
        assert!(
            error <= tolerance * (expected.abs() + 1.0),
            "{what} {}: number {place} is {found:?}, not {expected}",
            T::NAME
        );
    }
}
