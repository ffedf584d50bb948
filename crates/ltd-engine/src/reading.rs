//! Texts from which draft trees can grow.

use tch::Tensor;

use crate::identity::Identity;

/// A text that the target has read.
pub struct Reading {
    pub(crate) engine: Identity,
    pub(crate) tokens: Vec<u32>,
    /// Of all tokens but the last, `[n - 1, 3 * hidden]`.
    pub(crate) features: Tensor,
}
