//! Which instructions kernels use.

use std::sync::LazyLock;

use ltd_kernels::{InstructionSet, UnknownInstructionSet};
use tch::Kind;

use crate::{Error, Result};

/// Sets the instructions: one of [`InstructionSet::NAMES`] that the processor has.
const VARIABLE: &str = "LTD_INSTRUCTIONS";

/// What the environment asks for, if anything.
static ASKED: LazyLock<Option<Result<InstructionSet, UnknownInstructionSet>>> =
    LazyLock::new(|| std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()).map(|name| name.parse()));

/// Fails if the environment asks for instructions that are not there.
pub(crate) fn check_instructions() -> Result<()> {
    match &*ASKED {
        Some(Err(problem)) => Err(Error::Instructions { variable: VARIABLE, problem: problem.clone() }),
        _ => Ok(()),
    }
}

/// The instructions in use: the fastest ones, unless the environment asks for others. Found once:
/// it takes longer than a small operation.
pub(crate) fn instructions() -> InstructionSet {
    static CHOSEN: LazyLock<InstructionSet> = LazyLock::new(|| match &*ASKED {
        Some(Ok(asked)) => *asked,
        // What is not there was refused when the engine was loaded.
        Some(Err(_)) | None => InstructionSet::best(),
    });
    *CHOSEN
}

/// Whether the kernels multiply faster with them than oneDNN does. Where the environment asks for
/// instructions the kernels are used in any case: oneDNN would use all.
pub(super) fn are_faster(kind: Kind) -> bool {
    let asked = matches!(&*ASKED, Some(Ok(_)));
    !instructions().is_baseline() && (asked || !has_tiles(kind))
}

/// Whether oneDNN does many times more at once: tiles of AMX, or products of f16 as they are.
#[cfg(target_arch = "x86_64")]
fn has_tiles(kind: Kind) -> bool {
    match kind {
        Kind::BFloat16 => InstructionSet::has_tiles(),
        Kind::Half => is_x86_feature_detected!("avx512fp16"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_tiles(_: Kind) -> bool {
    true
}
