//! What the steps of attention share.

use std::ops::Range;

use super::visibility::Visibility;
use crate::InstructionSet;
use crate::element::Element;
use crate::memory::{Handover, SharedMut};
use crate::sums::Sums;
use crate::vector::LANES;

/// Sizes of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// All that both steps share, of sizes that fit together: [`Attention`](super::Attention) makes it.
pub(super) struct Shared<'t, T> {
    /// Tells this forward from others.
    pub(super) forward: u64,
    pub(super) qkv: Handover<'t, T>,
    pub(super) heads: Heads,
    /// Weight and epsilon, of queries and of keys.
    pub(super) norms: Option<[(&'t [T], f32); 2]>,
    pub(super) cos: &'t [f32],
    pub(super) sin: &'t [f32],
    /// Of keys and of values.
    pub(super) caches: [SharedMut<'t, T>; 2],
    pub(super) capacity: usize,
    pub(super) past: usize,
    pub(super) rows: usize,
    /// Vectors of query rows per key head.
    pub(super) vectors: usize,
    pub(super) visibility: &'t Visibility,
    pub(super) instructions: InstructionSet,
    pub(super) result: SharedMut<'t, T>,
}

impl<T: Element> Shared<'_, T> {
    pub(super) fn total(&self) -> usize {
        self.past + self.rows
    }

    /// Query heads per key head.
    pub(super) fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// A head of a row of `qkv`.
    #[inline(always)]
    pub(super) fn input<'q>(&self, qkv: &'q [T], row: usize, head: usize) -> &'q [T] {
        let Heads { queries, keys, width, .. } = self.heads;
        &qkv[(row * (queries + 2 * keys) + head) * width..][..width]
    }

    /// Cosines and sines of a row.
    #[inline(always)]
    pub(super) fn angles(&self, row: usize) -> [&[f32]; 2] {
        let half = self.heads.width / 2;
        [self.cos, self.sin].map(|table| &table[row * half..][..half])
    }

    /// Where a position of a key head is in a cache.
    pub(super) fn place(&self, head: usize, position: usize) -> usize {
        (head * self.capacity + position) * self.heads.width
    }

    /// The query rows of a vector, numbered through rows and the query heads that share a key head.
    #[inline(always)]
    pub(super) fn queries(&self, vector: usize) -> Range<usize> {
        vector * LANES..((vector + 1) * LANES).min(self.rows * self.group())
    }

    /// Row and query head of a query row of a key head.
    #[inline(always)]
    pub(super) fn row_and_head(&self, key_head: usize, query: usize) -> (usize, usize) {
        (query / self.group(), key_head * self.group() + query % self.group())
    }
}

/// What is multiplied at once.
pub(super) type Unit<T, I> = <<T as Element>::Sums<I> as Sums>::Unit;
/// Numbers that are multiplied.
pub(super) type Number<T, I> = <<T as Element>::Sums<I> as Sums>::Number;
