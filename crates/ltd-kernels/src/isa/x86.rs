//! What a processor of x86-64 has.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

/// What `CPUID` tells. A virtual machine's host answers, which takes long: not for what is asked in
/// every forward.
#[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
fn cpuid(leaf: u32, part: u32) -> CpuidResult {
    // SAFETY: Every processor of x86-64 has the instruction, and tells zeros of what it lacks.
    unsafe { __cpuid_count(leaf, part) }
}

/// The vendor's name, as `CPUID` spells it.
pub(super) fn vendor() -> [u8; 12] {
    let found = cpuid(0, 0);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([found.ebx, found.edx, found.ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    name
}

/// Whether it multiplies tiles of bf16: AMX.
pub(super) fn has_tiles() -> bool {
    // Leaf 7, EDX: the standard library's name for it is not stable yet.
    const AMX_BF16: u32 = 1 << 22;
    cpuid(0, 0).eax >= 7 && cpuid(7, 0).edx & AMX_BF16 != 0
}

/// Proof that the processor has some features, and the one place where a kernel is compiled with
/// them: what is detected and what is enabled is the same list.
///
/// The type that stands for the instructions in generic code, and the sums and panels that it
/// names, are known to their module alone. Only `run` names them to a kernel, and a proof is made
/// where the processor has the features. Hence whatever uses their instructions runs on a processor
/// that has them: the argument of each `unsafe` block there.
macro_rules! instructions {
    ($proof:ident, $instructions:ident: $($feature:tt)+) => {
        #[derive(Clone, Copy)]
        struct $instructions;

        /// Proof that the processor has these instructions.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(super) struct $proof(());

        impl $proof {
            pub(super) fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }

            pub(super) fn run<K: $crate::vector::Kernel>(self, kernel: K) -> K::Output {
                /// The kernel, compiled with these instructions.
                ///
                /// # Safety
                /// The processor must have them.
                $(#[target_feature(enable = $feature)])+
                fn compiled<K: $crate::vector::Kernel>(kernel: K) -> K::Output {
                    kernel.run::<$instructions>()
                }
                // SAFETY: `detect` alone makes the proof, after it found each of these features.
                unsafe { compiled(kernel) }
            }
        }
    };
}
pub(super) use instructions;
