//! The instruction sets that a processor has.

use super::simd::{Baseline, Kernel};
#[cfg(target_arch = "x86_64")]
use super::x86::{HasAvx2, HasAvx512, HasAvx512Bf16};

/// An instruction set of this processor: all but what every processor has are made by detection alone.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum InstructionSet {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(HasAvx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(HasAvx512Bf16),
}

impl InstructionSet {
    /// Those of this processor, in rising order.
    pub(in super::super) fn available() -> impl Iterator<Item = Self> {
        let sets = [
            Some(Self::Baseline),
            #[cfg(target_arch = "x86_64")]
            HasAvx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            HasAvx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            HasAvx512Bf16::detect().map(Self::Avx512Bf16),
        ];
        sets.into_iter().flatten()
    }

    /// The best one of this processor.
    pub(in super::super) fn best() -> Self {
        Self::available().last().expect("invariant: the baseline is everywhere")
    }

    /// Whether they multiply pairs of bf16.
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Avx512Bf16(_));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Runs a kernel with these instructions.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Baseline => kernel.run::<Baseline>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(has) => has.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(has) => has.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(has) => has.run(kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tests of the kernels cover: they go through the sets of this processor.
    #[test]
    fn the_best_is_the_last_of_those_that_are_covered() {
        let available: Vec<String> = InstructionSet::available().map(|set| format!("{set:?}")).collect();
        println!("kernels are tested with {}", available.join(", "));
        assert_eq!(available.last(), Some(&format!("{:?}", InstructionSet::best())));
    }
}
