//! Proof that a processor of x86-64 has some features.

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
