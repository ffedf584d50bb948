//! Instruction sets of x86-64, found at run time: nothing here needs to be enabled when compiling.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::mem::transmute;

use half::bf16;

use super::simd::{Instructions, Kernel, LANES, Vector};
use super::sums::{Plain, Sums};

#[derive(Clone, Copy)]
struct Avx2;
#[derive(Clone, Copy)]
struct Avx512;
#[derive(Clone, Copy)]
struct Avx512Bf16;

impl Instructions for Avx2 {
    const FUSED: bool = true;
    type Singles = Plain<Self>;
    type Bf16 = Plain<Self>;
}

impl Instructions for Avx512 {
    const FUSED: bool = true;
    type Singles = Singles;
    type Bf16 = Singles;
}

impl Instructions for Avx512Bf16 {
    const FUSED: bool = true;
    type Singles = Singles;
    type Bf16 = Pairs;
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2<K: Kernel>(kernel: &K, item: usize) {
    kernel.run::<Avx2>(item);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn avx512<K: Kernel>(kernel: &K, item: usize) {
    kernel.run::<Avx512>(item);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) fn avx512_bf16<K: Kernel>(kernel: &K, item: usize) {
    kernel.run::<Avx512Bf16>(item);
}

/// Products of f32. The compiler makes vectors of few arrays; of as many as hide two additions per cycle it does not.
#[derive(Clone, Copy)]
pub(super) struct Singles(__m512);

// The instructions of both are those of the kernels that use them.
impl Sums for Singles {
    type Number = f32;
    type Unit = f32;
    const NUMBERS: usize = 1;
    const ROWS: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn add(self, lanes: &[f32; LANES], unit: f32) -> Self {
        Self(unsafe { _mm512_fmadd_ps(_mm512_loadu_ps(lanes.as_ptr()), _mm512_set1_ps(unit), self.0) })
    }

    #[inline(always)]
    fn get(self) -> Vector {
        unsafe { transmute(self.0) }
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

/// Products of bf16, two in one instruction.
#[derive(Clone, Copy)]
pub(super) struct Pairs(__m512);

impl Sums for Pairs {
    type Number = bf16;
    type Unit = [bf16; 2];
    const NUMBERS: usize = 2;
    const ROWS: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn add(self, lanes: &[[bf16; 2]; LANES], unit: [bf16; 2]) -> Self {
        unsafe {
            let lanes: __m512bh = transmute(_mm512_loadu_si512(lanes.as_ptr().cast()));
            let unit: __m512bh = transmute(_mm512_set1_epi32(transmute::<[bf16; 2], i32>(unit)));
            Self(_mm512_dpbf16_ps(self.0, lanes, unit))
        }
    }

    #[inline(always)]
    fn get(self) -> Vector {
        unsafe { transmute(self.0) }
    }

    #[inline(always)]
    fn units(first: Vector, second: Vector) -> [[bf16; 2]; LANES] {
        unsafe {
            let wide = |vector: Vector| -> __m512i {
                let rounded = _mm512_cvtneps_pbh(transmute::<Vector, __m512>(vector));
                _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(rounded))
            };
            transmute(_mm512_or_si512(wide(first), _mm512_slli_epi32::<16>(wide(second))))
        }
    }

    #[inline(always)]
    fn unit(first: bf16, second: bf16) -> [bf16; 2] {
        [first, second]
    }
}
