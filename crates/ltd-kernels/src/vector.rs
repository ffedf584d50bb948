//! Vectors as arrays that the compiler turns into vector instructions, and what an instruction set
//! says itself.

use half::{bf16, f16};

use crate::element::Element;
use crate::exponential;
use crate::product::PanelSums;
use crate::sums::Sums;

/// Numbers in a vector: a whole AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// A vector.
pub(crate) type Vector = [f32; LANES];

/// Work that is compiled once per instruction set ([`crate::InstructionSet`]).
pub(crate) trait Kernel {
    type Output;

    /// Does it. Must be `inline(always)`.
    fn run<I: Instructions>(self) -> Self::Output;
}

/// An instruction set.
pub(crate) trait Instructions: Copy {
    /// Whether a number is multiplied and another one added in one instruction.
    const FUSED: bool;
    /// Products of small matrices of f32.
    type SumsF32: Sums;
    /// Those of bf16.
    type SumsBf16: Sums;
    /// Products with large weights of f32.
    type PanelF32: PanelSums<Number = f32>;
    /// Those of bf16.
    type PanelBf16: PanelSums<Number = bf16>;
    /// Those of f16.
    type PanelF16: PanelSums<Number = f16>;

    /// Starts to fetch what is at an address into the cache.
    #[inline(always)]
    fn fetch(_: *const u8) {}

    // What follows are loops that the compiler turns into vector instructions, but not always: of
    // nested ones it likes to take the outer one, and reads and writes number by number. Where that
    // costs, an instruction set says it itself.

    /// `a * b`.
    #[inline(always)]
    fn multiply(a: Vector, b: Vector) -> Vector {
        let mut product = a;
        for (a, b) in product.iter_mut().zip(b) {
            *a *= b;
        }
        product
    }

    /// The numbers of some lanes, one bit each, and minus infinity in the other ones.
    #[inline(always)]
    fn select(x: Vector, lanes: u16) -> Vector {
        let mut selected = x;
        for (lane, x) in selected.iter_mut().enumerate() {
            // In numbers, as the compiler would make branches of a choice: 0 or minus infinity is
            // added.
            let hidden = (u32::from(lanes) >> lane & 1).wrapping_sub(1);
            *x += f32::from_bits(hidden & f32::NEG_INFINITY.to_bits());
        }
        selected
    }

    /// Two to the power of numbers at most 0, within 2 units in the last place; 0 for what is too
    /// small, NaN for NaN.
    #[inline(always)]
    fn exp2(x: Vector) -> Vector {
        let mut powers = x;
        for x in &mut powers {
            *x = exponential::exp2::<Self>(*x);
        }
        powers
    }

    /// Rounded to nearest, ties to even.
    #[inline(always)]
    fn to_bf16(x: Vector) -> [bf16; LANES] {
        let mut rounded = [bf16::ZERO; LANES];
        for (rounded, x) in rounded.iter_mut().zip(x) {
            *rounded = Element::from_f32(x);
        }
        rounded
    }

    /// Makes columns of the rows.
    #[inline(always)]
    fn transpose(block: &mut [Vector; LANES]) {
        let rows = *block;
        for (row, values) in rows.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                block[column][row] = *value;
            }
        }
    }
}

/// `a * b + c`.
#[inline(always)]
pub(crate) fn multiply_add<I: Instructions>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, the fused operation would be a function call.
    if I::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of a vector, in the order of a tree.
#[inline(always)]
pub(crate) fn sum(vector: Vector) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstructionSet;

    struct Transposition([Vector; LANES]);

    impl Kernel for Transposition {
        type Output = [Vector; LANES];

        #[inline(always)]
        fn run<I: Instructions>(mut self) -> [Vector; LANES] {
            I::transpose(&mut self.0);
            self.0
        }
    }

    #[test]
    fn columns_become_rows() {
        let block = |number: &dyn Fn(usize, usize) -> usize| -> [Vector; LANES] {
            std::array::from_fn(|row| std::array::from_fn(|column| number(row, column) as f32))
        };
        for set in InstructionSet::available() {
            let found = set.run(Transposition(block(&|row, column| row * LANES + column)));
            assert_eq!(found, block(&|row, column| column * LANES + row), "{set:?}");
        }
    }

    struct Rounding(Vector);

    impl Kernel for Rounding {
        type Output = [bf16; LANES];

        #[inline(always)]
        fn run<I: Instructions>(self) -> [bf16; LANES] {
            I::to_bf16(self.0)
        }
    }

    #[test]
    fn bf16_is_the_nearest() {
        let numbers = (0..20_000u32).map(|index| f32::from_bits(index.wrapping_mul(2_654_435_761)));
        let normal: Vec<f32> = numbers.filter(|number| number.is_normal()).collect();
        for set in InstructionSet::available() {
            for vector in normal.as_chunks().0 {
                assert_eq!(set.run(Rounding(*vector)), vector.map(bf16::from_f32), "{set:?}");
            }
        }
    }

    #[test]
    fn a_sum_is_of_all_lanes() {
        assert_eq!(sum(std::array::from_fn(|lane| (lane * lane) as f32)), 1240.0);
    }
}
