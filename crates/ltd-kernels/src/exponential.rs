//! Exponentials of numbers at most 0, which softmax needs many of.

use crate::vector::{Instructions, multiply_add};

/// Coefficients of `2^x - 1` between -1/2 and 1/2, of the highest power first: the largest relative
/// error of `2^x` is 9e-8, before rounding.
#[expect(clippy::approx_constant, reason = "the last one was fitted, too")]
pub(crate) const POWERS: [f32; 5] =
    [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1];

/// Powers of two from this on are normal numbers; smaller ones count as 0.
pub(crate) const LOWEST_NORMAL: f32 = -126.0;

// Adding this makes a number whole.
const TO_WHOLE: f32 = 12_582_912.0;

/// [`Instructions::exp2`] of one number, written so that it compiles to vector instructions.
#[inline(always)]
pub(crate) fn exp2<I: Instructions>(x: f32) -> f32 {
    // Not `max`, which would turn NaN into a number.
    let clamped = if x < LOWEST_NORMAL { LOWEST_NORMAL } else { x };
    let shifted = clamped + TO_WHOLE;
    let rest = clamped - (shifted - TO_WHOLE);
    let mut power = POWERS[0];
    for coefficient in &POWERS[1..] {
        power = multiply_add::<I>(power, rest, *coefficient);
    }
    let power = multiply_add::<I>(power, rest, 1.0);
    // The whole number is in the lowest bits of the sum, and what is above them is shifted out.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST_NORMAL { 0.0 } else { power * scale }
}

/// `exp` of numbers at most 0, within 2 units in the last place; 0 for what is too small, NaN for
/// NaN (Cephes' method).
#[inline(always)]
pub(crate) fn exp<I: Instructions>(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
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
    use crate::InstructionSet;
    use crate::vector::{Kernel, LANES};

    /// The exponential of a number, the natural one or the power of two.
    struct Exponential {
        x: f32,
        natural: bool,
        lane: usize,
    }

    impl Kernel for Exponential {
        type Output = f32;

        #[inline(always)]
        fn run<I: Instructions>(self) -> f32 {
            let Self { x, natural, lane } = self;
            if natural { exp::<I>(x) } else { I::exp2([x; LANES])[lane] }
        }
    }

    /// The numbers `0..=20_000` times a step and their exponentials, of all instruction sets of
    /// this processor.
    fn exponentials(step: f32, natural: bool) -> Vec<(f32, f32)> {
        let of = |set: InstructionSet, item: usize| {
            let x = step * item as f32;
            (x, set.run(Exponential { x, natural, lane: item % LANES }))
        };
        let sets = InstructionSet::available();
        sets.flat_map(|set| (0..=20_000).map(move |item| of(set, item))).collect()
    }

    #[test]
    fn exponentials_are_close() {
        for (natural, lowest) in [(true, -86.9), (false, -125.9)] {
            for (x, found) in exponentials(lowest / 20_000.0, natural) {
                let expected = if natural { f64::from(x).exp() } else { f64::from(x).exp2() };
                assert!((f64::from(found) - expected).abs() <= 3e-7 * expected, "{natural} {x}: {found}");
                assert!(x != 0.0 || found == 1.0);
            }
        }
    }

    /// Products with subnormal numbers take a hundred times as long on some processors.
    #[test]
    fn no_power_is_subnormal() {
        for (x, found) in exponentials(-200.0 / 20_000.0, false) {
            assert!(found.is_normal() || found == 0.0, "2^{x}: {found:e}");
        }
    }

    #[test]
    fn what_is_too_small_becomes_nothing_and_what_is_no_number_stays_so() {
        for natural in [true, false] {
            for step in [-1e30, f32::MIN / 20_000.0] {
                let expected = |x: f32| if x == 0.0 { 1.0 } else { 0.0 };
                assert!(exponentials(step, natural).iter().all(|(x, found)| *found == expected(*x)));
            }
            // Times 0 it is NaN.
            for (x, found) in exponentials(f32::NEG_INFINITY, natural) {
                assert!(if x.is_nan() { found.is_nan() } else { found == 0.0 });
            }
        }
    }
}
