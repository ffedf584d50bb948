//! The instruction sets that a processor has, found at run time: nothing needs to be enabled when
//! compiling.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use self::{
    avx2::HasAvx2,
    avx512::{HasAvx512, HasAvx512Bf16},
};
use crate::product::PlainPanel;
use crate::sums::Plain;
use crate::vector::{Instructions, Kernel};

/// An instruction set of this processor. [`InstructionSet::available`] alone makes them: whoever
/// has one may use it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Set);

/// All but what every processor has are made by detection alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(HasAvx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(HasAvx512Bf16),
}

impl InstructionSet {
    /// The names of all instruction sets that there are kernels for, in rising order.
    pub const NAMES: [&str; 4] = ["baseline", "avx2", "avx512", "avx512-bf16"];

    /// Those of this processor, in rising order.
    pub fn available() -> impl Iterator<Item = Self> {
        let sets = [
            Some(Set::Baseline),
            #[cfg(target_arch = "x86_64")]
            HasAvx2::detect().map(Set::Avx2),
            #[cfg(target_arch = "x86_64")]
            HasAvx512::detect().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            HasAvx512Bf16::detect().map(Set::Avx512Bf16),
        ];
        sets.into_iter().flatten().map(Self)
    }

    /// The one of this processor that multiplies fastest: the last one, but on processors whose
    /// products of pairs of bf16 are slower than those of single numbers.
    pub fn best() -> Self {
        let pays = |set: &Self| match set.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16(_) => HasAvx512Bf16::pays(),
            _ => true,
        };
        Self::available().filter(pays).last().expect("invariant: the baseline is everywhere")
    }

    /// Whether the processor multiplies tiles of bf16 (AMX). There are no kernels for that.
    pub fn has_tiles() -> bool {
        #[cfg(target_arch = "x86_64")]
        return x86::has_tiles();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// What every processor of the architecture has: vectors, but no products that are worth
    /// packing weights for.
    pub fn is_baseline(self) -> bool {
        self.0 == Set::Baseline
    }

    /// One of [`InstructionSet::NAMES`].
    pub fn name(self) -> &'static str {
        let place = match self.0 {
            Set::Baseline => 0,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => 1,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => 2,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16(_) => 3,
        };
        Self::NAMES[place]
    }

    /// Runs a kernel with these instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Baseline => kernel.run::<Baseline>(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(has) => has.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(has) => has.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16(has) => has.run(kernel),
        }
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Debug for InstructionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no instruction set of this processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownInstructionSet {
    name: String,
}

impl fmt::Display for UnknownInstructionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available: Vec<&str> = InstructionSet::available().map(InstructionSet::name).collect();
        let problem =
            if InstructionSet::NAMES.contains(&self.name.as_str()) { "unavailable" } else { "unknown" };
        let (name, available) = (&self.name, available.join(", "));
        write!(formatter, "{problem} instruction set `{name}`; this processor has {available}")
    }
}

impl std::error::Error for UnknownInstructionSet {}

impl FromStr for InstructionSet {
    type Err = UnknownInstructionSet;

    /// One of this processor's by its name.
    fn from_str(name: &str) -> Result<Self, UnknownInstructionSet> {
        let unknown = || UnknownInstructionSet { name: name.to_owned() };
        Self::available().find(|set| set.name() == name).ok_or_else(unknown)
    }
}

/// What every processor of an architecture has.
#[derive(Clone, Copy)]
struct Baseline;

impl Instructions for Baseline {
    const FUSED: bool = cfg!(target_arch = "aarch64");
    type SumsF32 = Plain<Self>;
    type SumsBf16 = Plain<Self>;
    type PanelF32 = PlainPanel<f32, Self>;
    type PanelBf16 = PlainPanel<half::bf16, Self>;
    type PanelF16 = PlainPanel<half::f16, Self>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests of the kernels cover: they go through the sets of this processor.
    /// `LTD_REQUIRE_INSTRUCTIONS` names those that must be among them.
    #[test]
    fn the_sets_that_are_covered() {
        let available: Vec<&str> = InstructionSet::available().map(InstructionSet::name).collect();
        println!("kernels are tested with {}", available.join(", "));
        if let Ok(required) = std::env::var("LTD_REQUIRE_INSTRUCTIONS") {
            for name in required.split(',') {
                assert!(available.contains(&name), "not covered: {name}; covered: {available:?}");
            }
        }
    }

    /// Pairs alone are left out, and exactly where they do not pay.
    #[test]
    fn the_best_set_is_the_last_one_that_pays() {
        let names: Vec<&str> = InstructionSet::available().map(InstructionSet::name).collect();
        #[cfg(target_arch = "x86_64")]
        let expected = match names.as_slice() {
            [before @ .., "avx512-bf16"] if !HasAvx512Bf16::pays() => before.last(),
            all => all.last(),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let expected = names.last();
        assert_eq!(Some(&InstructionSet::best().name()), expected);
    }

    #[test]
    fn a_set_is_found_by_its_name_where_it_is_there() {
        for set in InstructionSet::available() {
            assert_eq!(set.name().parse(), Ok(set));
        }
        let problem = "avx3".parse::<InstructionSet>().expect_err("unknown").to_string();
        assert!(
            problem.starts_with("unknown instruction set `avx3`; this processor has baseline"),
            "{problem}"
        );
        for name in InstructionSet::NAMES {
            if let Err(problem) = name.parse::<InstructionSet>() {
                assert!(problem.to_string().starts_with("unavailable instruction set"), "{problem}");
            }
        }
    }
}
