//! The draft-and-verify cycle as plain data: what servers, environments and recordings share. No
//! LibTorch, no model.
//!
//! ```
//! use ltd_cycle::DraftTree;
//!
//! // A beam of two: the two best continuations of the root, best first.
//! let mut tree = DraftTree::new(&[-0.1, -2.5], vec![11, 12]);
//! // The two best continuations of each of them.
//! tree.push_level(&[-0.2, -3.0, -0.3, -1.5], &[21, 22, 23, 24]);
//! assert_eq!(tree.depth(), 1);
//!
//! // The three best candidates by score go to the target, below the root token 10.
//! let verification = tree.select(10, 3);
//! assert_eq!(verification.tokens, [10, 11, 12, 21]);
//!
//! // The target says 11 after the root, 21 after 11 and 31 after 21: rows 0, 1 and 3 are kept.
//! let target = |row: usize| match verification.tokens[row] {
//!     10 => Ok(11),
//!     11 => Ok(21),
//!     _ => Ok::<_, ()>(31),
//! };
//! assert_eq!(verification.accept(target), Ok((vec![0, 1, 3], 31)));
//! ```
//!
//! How deep the tree grows and how many candidates are verified is up to a [`Controller`]:
//! [`draft`] asks it after each level of a [`Cycle`]; one that looks at more than scores is shown a
//! [`Glimpse`]. What comes of a cycle is a [`CycleOutcome`],
//! and [`CycleStats`] sums them up. A [`StopRule`] says where a generation ends. A [`CopySource`]
//! finds what was said before; a [`Recall`] holds one for the choice of what to draft from. A
//! [`Sequence`] is all of it for a program that runs its own models.

mod candidates;
mod contention;
mod controller;
mod copy_source;
mod cycle;
mod growing;
mod outcome;
mod recall;
mod sequence;
mod stop_rule;
mod tree;

pub use candidates::{Candidates, Chain};
pub use contention::Contention;
pub use controller::{Controller, CopiesAlone, Copying, Glimpse, Learned, Looks, Static, WholeBeam};
pub use copy_source::{CopySource, Occurrence};
pub use cycle::{Cycle, draft, goes_on};
pub use growing::{GrowingTree, GrownTree};
pub use outcome::{CycleOutcome, CycleStats, CycleTiming};
pub use recall::{Recall, Yields, source_summary};
pub use sequence::{Sequence, SequenceError, is_log_prob};
pub use stop_rule::{Continuation, StopReason, StopRule};
pub use tree::{DraftTree, MAX_DEPTH, VerificationTree};
