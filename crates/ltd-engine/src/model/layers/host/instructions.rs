//! Which instructions kernels use.

use std::sync::LazyLock;

use ltd_kernels::{InstructionSet, UnknownInstructionSet};
use tch::Kind;

use crate::{Error, Result};

/// Narrows the instructions: one of [`InstructionSet::NAMES`] that the processor has.
const VARIABLE: &str = "LTD_INSTRUCTIONS";

/// What the environment asks for, if anything.
static NARROWED: LazyLock<Option<Result<InstructionSet, UnknownInstructionSet>>> =
    LazyLock::new(|| std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()).map(|name| name.parse()));

/// Fails if the environment asks for instructions that are not there.
pub(crate) fn check_instructions() -> Result<()> {
    match &*NARROWED {
        Some(Err(problem)) => Err(Error::Instructions { variable: VARIABLE, problem: problem.clone() }),
        _ => Ok(()),
    }
}

/// The instructions in use: the best ones, unless the environment narrows them.
pub(crate) fn instructions() -> InstructionSet {
    match &*NARROWED {
        Some(Ok(narrowed)) => *narrowed,
        // What is not there was refused when the engine was loaded.
        Some(Err(_)) | None => InstructionSet::best(),
    }
}

/// Whether the kernels multiply faster with them than oneDNN does. Where the environment narrows
/// the instructions they are used in any case: oneDNN would use all.
pub(super) fn are_faster(kind: Kind) -> bool {
    let narrowed = matches!(&*NARROWED, Some(Ok(_)));
    !instructions().is_baseline() && (narrowed || !has_tiles(kind))
}

/// Whether oneDNN does many times more at once: tiles of AMX, or products of f16 as they are.
#[cfg(target_arch = "x86_64")]
fn has_tiles(kind: Kind) -> bool {
    // Leaf 7, EDX: the standard library's name for it is not stable yet.
    const AMX_BF16: u32 = 1 << 22;
    let has_amx = || {
        std::arch::x86_64::__cpuid(0).eax >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16 != 0
    };
    match kind {
        Kind::BFloat16 => has_amx(),
        Kind::Half => is_x86_feature_detected!("avx512fp16"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_tiles(_: Kind) -> bool {
    true
}
