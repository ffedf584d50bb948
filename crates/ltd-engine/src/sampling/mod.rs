//! How the target's logits become tokens, the same for plain and speculative decoding.
//!
//! # The rule for trees
//!
//! A node of the verified tree has children `x1, x2, ...`, distinct tokens, and the target gives
//! the distribution `p` of the token after the node. Recursive rejection sampling (`SpecInfer`,
//! arXiv 2305.09781, multi-step speculative sampling; EAGLE, arXiv 2401.15077) looks at the
//! children in turn: accept `x` with probability `min(1, p(x) / q(x))`, else replace `p` by the
//! normalised positive part of `p - q` and try the next one; when none is left, draw from what `p`
//! has become. `q` is the distribution that the candidate was drawn from (arXiv 2211.17192, arXiv
//! 2302.01318).
//!
//! The candidates of an EAGLE-3 tree are drawn from nothing: given the context, its `W` best
//! continuations are certain to be proposed (arXiv 2406.16858). So `q` is 1 at the candidate and 0
//! elsewhere, whatever probability the draft gave it; that probability decides which candidates
//! there are, and has no place in the rule. Then `min(1, p(x) / q(x)) = p(x)`, and the positive
//! part of `p - q` is `p` with `x` set to zero:
//!
//! > accept `x` with probability `p(x)`, else set `p(x)` to zero, normalise, try the next child.
//!
//! (The draft's own probability in place of 1 would accept too often: the candidate comes with
//! certainty, not with that probability.)
//!
//! # One random number per position
//!
//! Let `u` be uniform in `[0, 1)`, and give each token an interval of the length of its
//! probability, side by side. Let `x1` be accepted when `u` falls into its interval: probability
//! `p(x1)`. If it is rejected, `u` is uniform on what is left, which is what normalising says, so
//! that `x2` has its interval hit with probability `p(x2) / (1 - p(x1))`, and so on; and when no
//! child is hit, the token whose interval holds `u` has the distribution that is left of `p`. All
//! of recursive rejection is thus *finding the token whose interval holds `u`, and following the
//! child that equals it*. This is what [`Sampler::tokens`] and [`crate::VerificationTree::accept`]
//! do. The result has the distribution `p`, as each interval has the length that `p` says.
//!
//! The random number of a token is a function of the seed, the sequence and the token's position
//! alone. Rows of different branches at the same depth share it, but at most one of them is on the
//! accepted path, and what another row would have said is never looked at; so along the path the
//! numbers are independent, and the joint distribution of the tokens is the target's. It follows
//! that plain decoding with the same seed yields *the same tokens*, as far as rounding of the
//! logits allows, whoever steers the trees.

mod distribution;
mod sampler;

pub use distribution::{distribution, tokens_at};
pub use ltd_policy::SamplingParams;
pub use sampler::Sampler;
pub(crate) use sampler::{Choices, Chosen};
