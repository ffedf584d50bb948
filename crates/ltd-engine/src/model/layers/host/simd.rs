//! Vectors as arrays that the compiler turns into vector instructions, and one function per instruction set.

/// Numbers in a vector: a whole AVX-512 register, two of AVX2.
pub(super) const LANES: usize = 16;

/// A vector.
pub(super) type Vector = [f32; LANES];

/// Work that is compiled once per instruction set.
pub(super) trait Kernel {
    /// Does item `item`. `FUSED`: the processor multiplies and adds in one instruction. Must be `inline(always)`.
    fn run<const FUSED: bool>(&self, item: usize);
}

/// Runs an item of a kernel with the best instructions of this processor.
pub(super) fn dispatch<K: Kernel>(kernel: &K, item: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
        {
            return unsafe { avx512(kernel, item) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return unsafe { avx2(kernel, item) };
        }
    }
    kernel.run::<false>(item);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn avx512<K: Kernel>(kernel: &K, item: usize) {
    kernel.run::<true>(item);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<K: Kernel>(kernel: &K, item: usize) {
    kernel.run::<true>(item);
}

/// `a * b + c`.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, the fused operation would be a function call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
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
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    // Adding this makes a number whole.
    const TO_WHOLE: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    // Not `max`, which would turn NaN into a number.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let whole = multiply_add::<FUSED>(clamped, std::f32::consts::LOG2_E, TO_WHOLE) - TO_WHOLE;
    let rest = multiply_add::<FUSED>(whole, -LN_2_HIGH, clamped);
    let rest = multiply_add::<FUSED>(whole, -LN_2_LOW, rest);
    let mut polynomial = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = multiply_add::<FUSED>(polynomial, rest, *coefficient);
    }
    let polynomial = multiply_add::<FUSED>(polynomial, rest * rest, rest) + 1.0;
    let scale = f32::from_bits(((whole as i32 + 127) << 23) as u32);
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
        fn run<const FUSED: bool>(&self, item: usize) {
            let x = self.from * item as f32 / 20_000.0;
            self.found.lock().expect("one thread").push((x, exp::<FUSED>(x)));
        }
    }

    #[test]
    fn exponentials_are_close() {
        let kernel = Exponentials { from: -86.9, found: std::sync::Mutex::default() };
        (0..=20_000).for_each(|item| dispatch(&kernel, item));
        kernel.run::<false>(12_345);
        for (x, found) in kernel.found.into_inner().expect("one thread") {
            let expected = f64::from(x).exp();
            assert!((f64::from(found) - expected).abs() <= 3e-7 * expected, "exp({x}) = {found}");
        }
        assert_eq!(
            (exp::<false>(0.0), exp::<false>(-1e30), exp::<false>(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn a_sum_is_of_all_lanes() {
        assert_eq!(sum(std::array::from_fn(|lane| (lane * lane) as f32)), 1240.0);
    }
}
