//! Number types in memory; all arithmetic is in f32, the products of bf16 excepted.

use half::{bf16, f16};

use crate::memory::Pod;
use crate::product::PanelSums;
use crate::sums::Sums;
use crate::vector::{Instructions, LANES, Vector};

/// What kernels do with a number type.
pub(crate) trait Element: Pod + Default {
    /// What adds up its products in small matrices.
    type Sums<I: Instructions>: Sums;
    /// What adds up its products with a packed weight.
    type Panel<I: Instructions>: PanelSums<Number = Self>;

    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;

    /// [`Self::from_f32`] of a vector; what is smaller than all normal numbers may become 0.
    #[inline(always)]
    fn from_vector<I: Instructions>(values: Vector) -> [Self; LANES] {
        let mut rounded = [Self::default(); LANES];
        for (rounded, value) in rounded.iter_mut().zip(values) {
            *rounded = Self::from_f32(value);
        }
        rounded
    }
}

impl Element for f32 {
    type Sums<I: Instructions> = I::SumsF32;
    type Panel<I: Instructions> = I::PanelF32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    type Sums<I: Instructions> = I::SumsBf16;
    type Panel<I: Instructions> = I::PanelBf16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To nearest, ties to even; written so that it compiles to vector instructions.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        bf16::from_bits(if value.is_nan() { 0x7fc0 } else { rounded })
    }

    #[inline(always)]
    fn from_vector<I: Instructions>(values: Vector) -> [Self; LANES] {
        I::to_bf16(values)
    }
}

impl Element for f16 {
    type Sums<I: Instructions> = I::SumsF32;
    type Panel<I: Instructions> = I::PanelF16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_the_library_does() {
        let values = (0..200_000u32).map(|index| f32::from_bits(index.wrapping_mul(2_654_435_761)));
        for value in values.chain([0.0, -0.0, f32::INFINITY, f32::MAX]) {
            let (found, expected) = (<bf16 as Element>::from_f32(value), bf16::from_f32(value));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{value}"
            );
            assert!(found.is_nan() || Element::to_f32(found) == f32::from(found));
        }
    }
}
