//! AVX2 with FMA: sixteen registers of eight numbers.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_and_si256,
    _mm256_castsi256_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
};
use std::mem::transmute;

use half::{bf16, f16};

use super::x86::instructions;
use crate::product::PanelSums;
use crate::sums::Sums;
use crate::vector::{Instructions, LANES, Vector};

instructions!(HasAvx2, Avx2: "avx2" "fma" "f16c");

impl Instructions for Avx2 {
    const FUSED: bool = true;
    type SumsF32 = Singles<2>;
    type SumsBf16 = Singles<2>;
    type PanelF32 = PanelF32;
    type PanelBf16 = PanelBf16;
    type PanelF16 = PanelF16;

    #[inline(always)]
    fn fetch(address: *const u8) {
        // SAFETY: A hint, which may be of any address; all processors of x86-64 have it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

/// Two registers, the numbers of a vector.
type Registers = [__m256; 2];

#[inline(always)]
fn zero() -> Registers {
    // SAFETY: The processor has AVX.
    [unsafe { _mm256_setzero_ps() }; 2]
}

#[inline(always)]
fn load(numbers: &Vector) -> Registers {
    // SAFETY: The processor has AVX; eight numbers are read where there are sixteen, twice.
    unsafe { [_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(LANES / 2))] }
}

#[inline(always)]
fn add_products([first, second]: Registers, lanes: Registers, unit: f32) -> Registers {
    // SAFETY: The processor has FMA.
    unsafe {
        let unit = _mm256_set1_ps(unit);
        [_mm256_fmadd_ps(lanes[0], unit, first), _mm256_fmadd_ps(lanes[1], unit, second)]
    }
}

#[inline(always)]
fn vector(registers: Registers) -> Vector {
    // SAFETY: Two registers are sixteen numbers of four bytes.
    unsafe { transmute::<Registers, Vector>(registers) }
}

/// Products of f32, in as many registers as hold the lanes that matter: the lower half, or all.
#[derive(Clone, Copy)]
struct Singles<const REGISTERS: usize>([__m256; REGISTERS]);

impl<const REGISTERS: usize> Sums for Singles<REGISTERS> {
    type Number = f32;
    type Unit = f32;
    type LowerHalf = Singles<1>;
    const NUMBERS: usize = 1;
    const ROWS: usize = 8 / REGISTERS;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: The processor has AVX.
        Self([unsafe { _mm256_setzero_ps() }; REGISTERS])
    }

    #[inline(always)]
    fn add(self, lanes: &[f32; LANES], unit: f32) -> Self {
        const { assert!(REGISTERS * LANES / 2 <= LANES) };
        let Self(mut sums) = self;
        for (register, sum) in sums.iter_mut().enumerate() {
            // SAFETY: The processor has FMA; eight numbers are read for each register, of which
            // there are no more than the lanes fill.
            unsafe {
                let lanes = _mm256_loadu_ps(lanes.as_ptr().add(register * LANES / 2));
                *sum = _mm256_fmadd_ps(lanes, _mm256_set1_ps(unit), *sum);
            }
        }
        Self(sums)
    }

    #[inline(always)]
    fn get(self) -> Vector {
        let mut all = zero();
        all[..REGISTERS].copy_from_slice(&self.0);
        vector(all)
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

/// Panels of sixteen outputs: the sums of six rows, a step of the weight and a number of the rows
/// fit in the registers.
macro_rules! panel {
    ($panel:ident of $number:ty, $place:expr, |$step:ident| $lanes:expr) => {
        #[derive(Clone, Copy)]
        struct $panel(Registers);

        impl PanelSums for $panel {
            type Number = $number;
            type Unit = f32;
            type Step = [$number; LANES];
            type Lanes = Registers;
            const OUTPUTS: usize = LANES;
            const NUMBERS: usize = 1;
            const ROWS: usize = 6;
            const STEPS: usize = 4;

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
            fn vector(self, _: usize) -> Vector {
                vector(self.0)
            }
        }
    };
}

panel!(PanelF32 of f32, |output| output, |step| load(step));

// The upper half of an f32 is a bf16: neighbours are the outputs of the same lane of both
// registers, and one instruction for each makes f32 of eight of them.
panel!(
    PanelBf16 of bf16,
    |output| output % (LANES / 2) * 2 + output / (LANES / 2),
    |step| {
        // SAFETY: The processor has AVX2; 32 bytes are read where there are sixteen numbers of two.
        unsafe {
            let pairs: __m256i = _mm256_loadu_si256(step.as_ptr().cast());
            let low = _mm256_slli_epi32::<16>(pairs);
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
);

panel!(
    PanelF16 of f16,
    |output| output,
    |step| {
        // SAFETY: The processor has F16C; 16 bytes are read where there are sixteen numbers of two,
        // twice.
        unsafe {
            let halves: *const __m128i = step.as_ptr().cast();
            [_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1)))]
        }
    }
);
