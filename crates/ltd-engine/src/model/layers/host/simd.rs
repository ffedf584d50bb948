//! Vectors as arrays that the compiler turns into vector instructions, and one function per instruction set.

use super::sums::{Plain, Sums};
#[cfg(target_arch = "x86_64")]
use super::x86;

/// Numbers in a vector: a whole AVX-512 register, two of AVX2.
pub(super) const LANES: usize = 16;

/// A vector.
pub(super) type Vector = [f32; LANES];

/// Work that is compiled once per instruction set.
pub(super) trait Kernel {
    /// Does item `item`. Must be `inline(always)`.
    fn run<I: Instructions>(&self, item: usize);
}

/// An instruction set.
pub(super) trait Instructions: Copy {
    /// Whether a number is multiplied and another one added in one instruction.
    const FUSED: bool;
    /// Products of f32.
    type Singles: Sums;
    /// Products of bf16.
    type Bf16: Sums;
}

/// What every processor of an architecture has.
#[derive(Clone, Copy)]
struct Baseline;

impl Instructions for Baseline {
    const FUSED: bool = cfg!(target_arch = "aarch64");
    type Singles = Plain<Self>;
    type Bf16 = Plain<Self>;
}

/// An instruction set by name, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum InstructionSet {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl InstructionSet {
    #[cfg(test)]
    pub(in super::super) const ALL: &[Self] = &[
        Self::Baseline,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
    ];

    /// The best one of this processor.
    pub(in super::super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                let bf16 = is_x86_feature_detected!("avx512bf16");
                return if bf16 { Self::Avx512Bf16 } else { Self::Avx512 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }
}

/// Runs an item of a kernel with the best instructions of this processor.
pub(super) fn dispatch<K: Kernel>(kernel: &K, item: usize) {
    dispatch_to(InstructionSet::best(), kernel, item);
}

/// Runs an item of a kernel with instructions that the processor has.
pub(super) fn dispatch_to<K: Kernel>(set: InstructionSet, kernel: &K, item: usize) {
    match set {
        InstructionSet::Baseline => kernel.run::<Baseline>(item),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { x86::avx2(kernel, item) },
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { x86::avx512(kernel, item) },
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Bf16 => unsafe { x86::avx512_bf16(kernel, item) },
    }
}

/// `a * b + c`.
#[inline(always)]
pub(super) fn multiply_add<I: Instructions>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, the fused operation would be a function call.
    if I::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of a vector, in the order of a tree.
#[inline(always)]
pub(super) fn sum(vector: Vector) -> f32 {
    let mut sums = vector;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// `exp` of numbers at most 0, within 2 units in the last place; 0 for what is too small, NaN for NaN (Cephes'
/// method).
#[inline(always)]
pub(super) fn exp<I: Instructions>(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    // Adding this makes a number whole.
    const TO_WHOLE: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    // Not `max`, which would turn NaN into a number.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = multiply_add::<I>(clamped, std::f32::consts::LOG2_E, TO_WHOLE);
    let whole = shifted - TO_WHOLE;
    let rest = multiply_add::<I>(whole, -LN_2_HIGH, clamped);
    let rest = multiply_add::<I>(whole, -LN_2_LOW, rest);
    let mut polynomial = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = multiply_add::<I>(polynomial, rest, *coefficient);
    }
    let polynomial = multiply_add::<I>(polynomial, rest * rest, rest) + 1.0;
    // The whole number is in the lowest bits of the sum, and what is above them is shifted out.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST { 0.0 } else { polynomial * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exponentials {
        from: f32,
        found: std::sync::Mutex<Vec<(f32, f32)>>,
    }

    impl Kernel for Exponentials {
        #[inline(always)]
        fn run<I: Instructions>(&self, item: usize) {
            let x = self.from * item as f32 / 20_000.0;
            self.found.lock().expect("one thread").push((x, exp::<I>(x)));
        }
    }

    #[test]
    fn exponentials_are_close() {
        let kernel = Exponentials { from: -86.9, found: std::sync::Mutex::default() };
        (0..=20_000).for_each(|item| dispatch(&kernel, item));
        kernel.run::<Baseline>(12_345);
        for (x, found) in kernel.found.into_inner().expect("one thread") {
            let expected = f64::from(x).exp();
            assert!((f64::from(found) - expected).abs() <= 3e-7 * expected, "exp({x}) = {found}");
        }
        assert_eq!(
            (exp::<Baseline>(0.0), exp::<Baseline>(-1e30), exp::<Baseline>(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp::<Baseline>(f32::NAN).is_nan());
    }

    #[test]
    fn a_sum_is_of_all_lanes() {
        assert_eq!(sum(std::array::from_fn(|lane| (lane * lane) as f32)), 1240.0);
    }
}
