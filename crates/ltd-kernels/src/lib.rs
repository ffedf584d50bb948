//! CPU kernels for forwards of a few rows: what speculative decoding does all the time, and what
//! general libraries are slow at. Between two matrix products of a layer there are a dozen small
//! operations, whose overhead is as long as the products themselves, and usual attention does not
//! know trees.
//!
//! Instructions are found at run time ([`InstructionSet`]), threads are lent by the program
//! ([`Threads`]). An operation works on slices, checks their sizes once, before its work begins,
//! and panics where they do not fit. Everything is computed in f32, whatever the type in memory;
//! only pairs of bf16 are multiplied as they are where there is an instruction for it that is
//! faster. Every row's result has the same bits whatever the rows beside it.
//!
//! ```
//! use ltd_kernels::{Cpu, Fused, InstructionSet, Linear, Panels, Serial};
//!
//! let cpu = Cpu { instructions: InstructionSet::best(), threads: &Serial };
//! // Two outputs of three inputs.
//! let weight = Panels::pack(cpu, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]).expect("whole steps");
//! let mut result = [0.0; 2];
//! let linear = Linear { weight: &weight, bias: Some(&[0.5, -0.5]) };
//! linear.forward(cpu, &[1.0, 0.0, -1.0], None, Fused::Nothing, &mut result);
//! assert_eq!(result, [-1.5, -2.5]);
//! ```
#![expect(unsafe_code, reason = "vector instructions, and memory that threads share out among themselves")]
#![expect(
    clippy::inline_always,
    reason = "a kernel is compiled once per instruction set, which must reach all that it calls"
)]

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod attention;
mod element;
mod exponential;
mod isa;
mod memory;
mod mlp;
mod norm;
mod operations;
mod product;
mod sums;
mod threads;
mod top;
mod vector;

pub use attention::{Attention, Caches, HeadNorms, Heads, Visibility};
pub use isa::{InstructionSet, UnknownInstructionSet};
pub use mlp::Mlp;
pub use norm::RowNorm;
pub use operations::{Float, argmax, rms_norm, top_log_probs};
pub use product::{Fused, Linear, Panels};
pub use threads::{Scoped, Serial, Threads};

/// What kernels run on.
#[derive(Clone, Copy)]
pub struct Cpu<'c> {
    /// The instructions that they use.
    pub instructions: InstructionSet,
    /// The threads that they share their work among.
    pub threads: &'c dyn Threads,
}
