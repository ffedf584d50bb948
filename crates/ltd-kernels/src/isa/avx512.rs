//! AVX-512, and with its instructions for bf16: 32 registers of sixteen numbers.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_NLT_UQ, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1,
    _mm_prefetch, _mm256_loadu_si256, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_mov_ps, _mm512_maskz_mov_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_sub_ps,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use half::{bf16, f16};

use super::x86::{instructions, vendor};
use crate::exponential::{LOWEST_NORMAL, POWERS};
use crate::product::PanelSums;
use crate::sums::Sums;
use crate::vector::{Instructions, LANES, Vector};

instructions!(HasAvx512, Avx512: "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx2" "fma" "f16c");
instructions!(
    HasAvx512Bf16, Avx512Bf16:
    "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512bf16" "avx2" "fma" "f16c"
);

impl HasAvx512Bf16 {
    /// Whether products of pairs are faster than products of single numbers.
    ///
    /// On an AMD Zen 4 one instruction multiplies twice as many numbers in the time of one for
    /// single numbers. On an Intel Xeon (Emerald Rapids) it takes so much longer that less is done:
    /// 0.16 TFLOP/s in place of 0.23 (docs/benchmarks/2026-11-29-pairs.md). The choice decides how
    /// sums are rounded, so a processor's is always the same, and not measured anew.
    pub(super) fn pays() -> bool {
        pairs_pay(vendor())
    }
}

fn pairs_pay(vendor: [u8; 12]) -> bool {
    vendor != *b"GenuineIntel"
}

/// What both have in common.
macro_rules! avx512 {
    () => {
        const FUSED: bool = true;
        type SumsF32 = Singles;
        type PanelF32 = PanelF32;
        type PanelF16 = PanelF16;

        #[inline(always)]
        fn fetch(address: *const u8) {
            // SAFETY: A hint, which may be of any address; all processors of x86-64 have it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        fn multiply(a: Vector, b: Vector) -> Vector {
            // SAFETY: The processor has AVX-512.
            vector(unsafe { _mm512_mul_ps(register(a), register(b)) })
        }

        #[inline(always)]
        fn select(x: Vector, lanes: u16) -> Vector {
            // SAFETY: The processor has AVX-512.
            vector(unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), lanes, register(x)) })
        }

        #[inline(always)]
        fn exp2(x: Vector) -> Vector {
            vector(exp2(register(x)))
        }

        #[inline(always)]
        fn transpose(block: &mut [Vector; LANES]) {
            // SAFETY: Registers are sixteen numbers of four bytes, whatever these are.
            *block = unsafe {
                let columns = transpose(transmute::<[Vector; LANES], [__m512i; LANES]>(*block));
                transmute::<[__m512i; LANES], [Vector; LANES]>(columns)
            };
        }
    };
}

impl Instructions for Avx512 {
    avx512!();
    type SumsBf16 = Singles;
    type PanelBf16 = PanelBf16;
}

impl Instructions for Avx512Bf16 {
    avx512!();
    type SumsBf16 = Pairs;
    type PanelBf16 = PanelPairs;

    #[inline(always)]
    fn to_bf16(x: Vector) -> [bf16; LANES] {
        // SAFETY: The processor has AVX-512 with bf16; half a register is sixteen numbers of two
        // bytes.
        unsafe { transmute::<__m256bh, [bf16; LANES]>(_mm512_cvtneps_pbh(register(x))) }
    }
}

#[inline(always)]
fn register(vector: Vector) -> __m512 {
    // SAFETY: A register is sixteen numbers of four bytes.
    unsafe { transmute::<Vector, __m512>(vector) }
}

#[inline(always)]
fn vector(register: __m512) -> Vector {
    // SAFETY: A register is sixteen numbers of four bytes.
    unsafe { transmute::<__m512, Vector>(register) }
}

/// [`Instructions::exp2`]: the processor has instructions for the whole part.
#[inline(always)]
fn exp2(x: __m512) -> __m512 {
    /// Low enough for a result of 0. Minus infinity less itself would be NaN.
    const LOWEST: f32 = -1000.0;
    // SAFETY: The processor has AVX-512.
    unsafe {
        // Of two operands of which one is NaN, the second one is the result.
        let x = _mm512_max_ps(_mm512_set1_ps(LOWEST), x);
        let whole = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x);
        let rest = _mm512_sub_ps(x, whole);
        let mut power = _mm512_set1_ps(POWERS[0]);
        for coefficient in &POWERS[1..] {
            power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(*coefficient));
        }
        let power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0));
        let power = _mm512_scalef_ps(power, whole);
        // Products with subnormal numbers take a hundred times as long on some processors.
        let is_normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LOWEST_NORMAL));
        _mm512_maskz_mov_ps(is_normal, power)
    }
}

/// [`Instructions::transpose`]: numbers, then pairs, then fours change places.
#[inline(always)]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // SAFETY: The processor has AVX-512.
    unsafe {
        let mut pairs = rows;
        for row in (0..LANES).step_by(2) {
            pairs[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
            pairs[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
        }
        // A quarter of `fours[4 * i + j]` is column `j` of the same quarter of rows `4 * i..4 * i +
        // 4`.
        let mut fours = rows;
        for row in (0..LANES).step_by(4) {
            fours[row] = _mm512_unpacklo_epi64(pairs[row], pairs[row + 2]);
            fours[row + 1] = _mm512_unpackhi_epi64(pairs[row], pairs[row + 2]);
            fours[row + 2] = _mm512_unpacklo_epi64(pairs[row + 1], pairs[row + 3]);
            fours[row + 3] = _mm512_unpackhi_epi64(pairs[row + 1], pairs[row + 3]);
        }
        let mut columns = rows;
        for column in 0..4 {
            let [first, second, third, last] = [0, 4, 8, 12].map(|row| fours[row + column]);
            let low = [
                _mm512_shuffle_i32x4::<0b01_00_01_00>(first, second),
                _mm512_shuffle_i32x4::<0b01_00_01_00>(third, last),
            ];
            let high = [
                _mm512_shuffle_i32x4::<0b11_10_11_10>(first, second),
                _mm512_shuffle_i32x4::<0b11_10_11_10>(third, last),
            ];
            columns[column] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low[0], low[1]);
            columns[column + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low[0], low[1]);
            columns[column + 8] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high[0], high[1]);
            columns[column + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high[0], high[1]);
        }
        columns
    }
}

/// Products of f32. The compiler makes vectors of few arrays; of as many as hide two additions per
/// cycle it does not.
#[derive(Clone, Copy)]
struct Singles(__m512);

impl Sums for Singles {
    type Number = f32;
    type Unit = f32;
    type LowerHalf = Self;
    const NUMBERS: usize = 1;
    const ROWS: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: The processor has AVX-512.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn add(self, lanes: &[f32; LANES], unit: f32) -> Self {
        // SAFETY: The processor has AVX-512; sixteen numbers are read where there are sixteen.
        Self(unsafe { _mm512_fmadd_ps(_mm512_loadu_ps(lanes.as_ptr()), _mm512_set1_ps(unit), self.0) })
    }

    #[inline(always)]
    fn get(self) -> Vector {
        vector(self.0)
    }

    #[inline(always)]
    fn units(first: Vector, _: Vector) -> Vector {
        first
    }

    #[inline(always)]
    fn unit(first: f32, _: f32) -> f32 {
        first
    }
}

/// Products of bf16, two in one instruction, which adds the one of the second numbers first: they
/// are turned round, so that sums are taken in the order of the steps, and rows of weight 0 between
/// others change nothing.
#[derive(Clone, Copy)]
struct Pairs(__m512);

impl Sums for Pairs {
    type Number = bf16;
    type Unit = [bf16; 2];
    type LowerHalf = Self;
    const NUMBERS: usize = 2;
    const ROWS: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: The processor has AVX-512.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn add(self, lanes: &[[bf16; 2]; LANES], unit: [bf16; 2]) -> Self {
        // SAFETY: The processor has AVX-512 with bf16; sixteen pairs are read where there are
        // sixteen, and a register of pairs is one of any other numbers.
        unsafe {
            let lanes: __m512bh = transmute(_mm512_loadu_si512(lanes.as_ptr().cast()));
            let unit: __m512bh = transmute(_mm512_set1_epi32(transmute::<[bf16; 2], i32>(unit)));
            Self(_mm512_dpbf16_ps(self.0, lanes, unit))
        }
    }

    #[inline(always)]
    fn get(self) -> Vector {
        vector(self.0)
    }

    #[inline(always)]
    fn units(first: Vector, second: Vector) -> [[bf16; 2]; LANES] {
        /// Where the numbers of each lane are among those of both vectors.
        const PLACES: [[u16; 2]; LANES] = {
            let mut places = [[0; 2]; LANES];
            let mut lane = 0;
            while lane < LANES {
                places[lane] = [(LANES + lane) as u16, lane as u16];
                lane += 1;
            }
            places
        };
        // SAFETY: The processor has AVX-512 with bf16; a register is sixteen pairs of two bytes
        // each.
        unsafe {
            let rounded = _mm512_cvtne2ps_pbh(register(second), register(first));
            let places = transmute::<[[u16; 2]; LANES], __m512i>(PLACES);
            let pairs = _mm512_permutexvar_epi16(places, transmute::<__m512bh, __m512i>(rounded));
            transmute::<__m512i, [[bf16; 2]; LANES]>(pairs)
        }
    }

    #[inline(always)]
    fn unit(first: bf16, second: bf16) -> [bf16; 2] {
        [second, first]
    }
}

/// Two registers, the numbers of two vectors.
type Registers = [__m512; 2];

#[inline(always)]
fn zero() -> Registers {
    // SAFETY: The processor has AVX-512.
    [unsafe { _mm512_setzero_ps() }; 2]
}

#[inline(always)]
fn add_products([first, second]: Registers, lanes: Registers, unit: f32) -> Registers {
    // SAFETY: The processor has AVX-512.
    unsafe {
        let unit = _mm512_set1_ps(unit);
        [_mm512_fmadd_ps(lanes[0], unit, first), _mm512_fmadd_ps(lanes[1], unit, second)]
    }
}

/// Panels of 32 outputs: the sums of twelve rows and a step of the weight fit in the registers, and
/// products read the rows' numbers from memory.
macro_rules! panel {
    ($panel:ident of $number:ty, $place:expr, |$step:ident| $lanes:expr) => {
        #[derive(Clone, Copy)]
        struct $panel(Registers);

        impl PanelSums for $panel {
            type Number = $number;
            type Unit = f32;
            type Step = [$number; 2 * LANES];
            type Lanes = Registers;
            const OUTPUTS: usize = 2 * LANES;
            const NUMBERS: usize = 1;
            const ROWS: usize = 12;
            const STEPS: usize = 1;

            fn place(output: usize, _: usize) -> usize {
                let place: fn(usize) -> usize = $place;
                place(output)
            }

            #[inline(always)]
            fn zero() -> Self {
                Self(zero())
            }

            #[inline(always)]
            fn lanes($step: &Self::Step) -> Registers {
                $lanes
            }

            #[inline(always)]
            fn add(self, lanes: Registers, unit: f32) -> Self {
                Self(add_products(self.0, lanes, unit))
            }

            #[inline(always)]
            fn vector(self, number: usize) -> Vector {
                vector(self.0[number])
            }
        }
    };
}

panel!(
    PanelF32 of f32,
    |output| output,
    |step| {
        // SAFETY: The processor has AVX-512; sixteen numbers are read where there are 32, twice.
        unsafe { [_mm512_loadu_ps(step.as_ptr()), _mm512_loadu_ps(step.as_ptr().add(LANES))] }
    }
);

// The upper half of an f32 is a bf16: neighbours are the outputs of the same lane of both
// registers, and one instruction for each makes f32 of sixteen of them.
panel!(
    PanelBf16 of bf16,
    |output| output % LANES * 2 + output / LANES,
    |step| {
        // SAFETY: The processor has AVX-512; 64 bytes are read where there are 32 numbers of two.
        unsafe {
            let pairs: __m512i = _mm512_loadu_si512(step.as_ptr().cast());
            let low = _mm512_slli_epi32::<16>(pairs);
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)]
        }
    }
);

panel!(
    PanelF16 of f16,
    |output| output,
    |step| {
        // SAFETY: The processor has AVX-512; 32 bytes are read where there are 32 numbers of two,
        // twice.
        unsafe {
            let halves: *const __m256i = step.as_ptr().cast();
            [
                _mm512_cvtph_ps(_mm256_loadu_si256(halves)),
                _mm512_cvtph_ps(_mm256_loadu_si256(halves.add(1))),
            ]
        }
    }
);

/// Panels of 32 outputs, of which two products of bf16 are added in one instruction.
#[derive(Clone, Copy)]
struct PanelPairs(Registers);

impl PanelSums for PanelPairs {
    type Number = bf16;
    type Unit = [bf16; 2];
    type Step = [[bf16; 2]; 2 * LANES];
    type Lanes = [__m512bh; 2];
    const OUTPUTS: usize = 2 * LANES;
    const NUMBERS: usize = 2;
    const ROWS: usize = 12;
    const STEPS: usize = 1;

    fn place(output: usize, input: usize) -> usize {
        output * 2 + input
    }

    #[inline(always)]
    fn zero() -> Self {
        Self(zero())
    }

    #[inline(always)]
    fn lanes(step: &Self::Step) -> [__m512bh; 2] {
        // SAFETY: The processor has AVX-512; sixteen pairs are read where there are 32, twice, and
        // a register of pairs is one of any other numbers.
        unsafe {
            let pairs = step.as_ptr();
            [
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(pairs.cast())),
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(pairs.add(LANES).cast())),
            ]
        }
    }

    #[inline(always)]
    fn add(self, [first, second]: [__m512bh; 2], unit: [bf16; 2]) -> Self {
        // SAFETY: The processor has AVX-512 with bf16; a register of pairs is one of any other
        // numbers.
        unsafe {
            let unit = transmute::<[bf16; 2], i32>(unit);
            let unit = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(unit));
            Self([_mm512_dpbf16_ps(self.0[0], first, unit), _mm512_dpbf16_ps(self.0[1], second, unit)])
        }
    }

    #[inline(always)]
    fn vector(self, number: usize) -> Vector {
        vector(self.0[number])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_pay_on_all_but_intel_s_processors() {
        assert!(!pairs_pay(*b"GenuineIntel"));
        assert!(pairs_pay(*b"AuthenticAMD"));
        assert!(vendor().iter().all(|byte| (b' '..=b'~').contains(byte)), "{:?}", vendor());
    }
}
