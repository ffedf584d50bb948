//! What a forward is run over.

use super::mask::AttentionMask;

/// The rows of a forward, as the host knows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'r> {
    /// Token of each row.
    pub(crate) tokens: &'r [u32],
    /// Position of each row in the sequence; rows of different branches of a tree may share one.
    pub(crate) positions: &'r [i64],
    /// Cached rows before them: theirs are cached after those.
    pub(crate) past: i64,
    pub(crate) mask: &'r AttentionMask,
}

impl Rows<'_> {
    pub(crate) fn count(&self) -> i64 {
        self.positions.len() as i64
    }

    /// The tokens, as an upload takes them.
    pub(crate) fn token_ids(&self) -> impl Iterator<Item = i64> {
        self.tokens.iter().map(|&token| i64::from(token))
    }
}
