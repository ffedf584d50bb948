//! Number types in memory; all arithmetic is in f32, the products of bf16 excepted.

use half::{bf16, f16};
use tch::Kind;

use super::memory::Pod;
use super::simd::{Instructions, LANES, Vector};
use super::sums::Sums;

/// A number type of tensors.
pub(super) trait Element: Pod + Default {
    const KIND: Kind;
    /// What adds up its products.
    type Sums<I: Instructions>: Sums;

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
    const KIND: Kind = Kind::Float;
    type Sums<I: Instructions> = I::Singles;

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
    const KIND: Kind = Kind::BFloat16;
    type Sums<I: Instructions> = I::Bf16;

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
    const KIND: Kind = Kind::Half;
    type Sums<I: Instructions> = I::Singles;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// Calls a generic function with the Rust type of a tensor's kind.
macro_rules! with_element {
    ($kind:expr, $name:ident => $call:expr) => {
        match $kind {
            tch::Kind::Float => {
                type $name = f32;
                $call
            }
            tch::Kind::BFloat16 => {
                type $name = half::bf16;
                $call
            }
            tch::Kind::Half => {
                type $name = half::f16;
                $call
            }
            other => unreachable!("kernels are not asked for {other:?}"),
        }
    };
}
pub(super) use with_element;

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
