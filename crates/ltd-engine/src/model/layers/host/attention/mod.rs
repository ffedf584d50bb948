//! Attention of a few rows over a cache: rotation, storing of keys and values, and grouped-query attention under a
//! tree mask.
//!
//! Query heads that share a key head are rows of one problem, sixteen of them in the lanes of a vector: keys and values are
//! read as they stand in the cache, and the softmax is computed lane by lane. Sums are taken in the order of the
//! positions, and what a row does not see adds 0: its result does not depend on the rows beside it.

mod rotation;
mod rows;
mod storing;
mod units;
mod visibility;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::Tensor;

use super::element::{Element, with_element};
use super::memory::{Handover, Line};
use super::norm::{Input, RowNorm};
use super::parallel;
use super::product::{Biased, Columns, Then};
use super::simd::{InstructionSet, LANES};
use super::sums::Sums;
use super::{elements, elements_mut};
use rows::Rows;
use storing::Storing;

pub(in super::super) use visibility::Visibility;

thread_local! {
    /// Of the thread that starts a forward.
    static MEMORY: RefCell<Memory> = RefCell::default();
}

#[derive(Default)]
struct Memory {
    normed: Vec<Line>,
    /// Queries, keys and values, and what they give.
    projected: Vec<Line>,
    attended: Vec<Line>,
}

/// Sizes of the heads.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Heads {
    /// Query heads.
    pub(in super::super) queries: usize,
    /// Key and value heads.
    pub(in super::super) keys: usize,
    /// Width of a head.
    pub(in super::super) width: usize,
    /// Factor on the scores.
    pub(in super::super) scale: f32,
}

/// Norms of each query and key head before the rotation (Qwen3).
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct HeadNorms<'t> {
    pub(in super::super) query: RowNorm<'t>,
    pub(in super::super) key: RowNorm<'t>,
}

/// What is done between the projections: queries and keys are rotated, keys and values stored at rows
/// `past..past + n` of the caches, and attended to.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Attending<'t> {
    pub(in super::super) heads: Heads,
    pub(in super::super) norms: Option<HeadNorms<'t>>,
    /// Cosines and sines of the rows, `[n, width / 2]`.
    pub(in super::super) cos: &'t [f32],
    pub(in super::super) sin: &'t [f32],
    /// Caches, `[key heads, capacity, width]`.
    pub(in super::super) keys: &'t Tensor,
    pub(in super::super) values: &'t Tensor,
    pub(in super::super) past: usize,
    pub(in super::super) visibility: &'t Visibility,
    /// That the processor has.
    pub(in super::super) instructions: InstructionSet,
}

impl<'t> Attending<'t> {
    /// Attends with what is projected already, `[n, (query heads + 2 key heads) * width]`: `[n, query heads * width]`.
    pub(in super::super) fn attend(&self, qkv: &Tensor) -> Tensor {
        let size = [qkv.size()[0], (self.heads.queries * self.heads.width) as i64];
        let result = qkv.new_empty(size, (qkv.kind(), qkv.device()));
        with_element!(qkv.kind(), T => {
            let (qkv, result) = unsafe { (elements::<T>(qkv), elements::<T>(&result)) };
            let shared = self.shared(Handover::of(qkv), Handover::of(result));
            parallel::in_turn([&Storing(&shared), &Rows(&shared)]);
        });
        result
    }

    /// `residual + output(attention(qkv(x)))`, with the rows of `x` normed if there is a norm: as one operation.
    pub(in super::super) fn attend_projected(
        &self,
        qkv: Biased,
        output: Biased,
        x: &Tensor,
        norm: Option<RowNorm>,
        residual: &Tensor,
    ) -> Tensor {
        let (x, residual) = (qkv.rows(x), residual.contiguous());
        let (result, rows) = (output.result(&x), x.size()[0] as usize);
        assert_eq!((residual.kind(), residual.size()), (result.kind(), result.size()));
        with_element!(x.kind(), T => MEMORY.with_borrow_mut(|memory| {
            let Memory { normed, projected, attended } = memory;
            let input = Input::new(unsafe { elements::<T>(&x) }, norm, normed);
            let projected = Handover::<T>::new(projected, rows * qkv.outputs());
            let attended = Handover::<T>::new(attended, rows * self.heads.queries * self.heads.width);
            let qkv = qkv.product(input.rows, Then::Nothing, Columns::of_rows(projected, qkv.outputs()));
            let shared = self.shared(projected, attended);
            let output = output.product(attended, Then::Plus(Columns::of(&residual)), Columns::of(&result));
            parallel::in_turn([&input, &qkv, &Storing(&shared), &Rows(&shared), &output]);
        }));
        result
    }

    fn shared<T: Element>(&self, qkv: Handover<T>, result: Handover<T>) -> Shared<'t, T> {
        static FORWARDS: AtomicU64 = AtomicU64::new(0);
        let Self { heads, norms, cos, sin, keys, values, past, visibility, instructions } = *self;
        let rows = qkv.len() / ((heads.queries + 2 * heads.keys) * heads.width);
        assert_eq!(result.len(), rows * heads.queries * heads.width);
        // All are of the type that the caller chose by the kind. The caches are written in the first step only, and read
        // after it.
        let (norms, caches) = unsafe {
            let elements_of = |norm: RowNorm<'t>| (elements(norm.weight), norm.eps);
            let norms = norms.map(|HeadNorms { query, key }| [query, key].map(elements_of));
            (norms, [keys, values].map(|cache| elements_mut::<T>(cache).as_mut_ptr() as usize))
        };
        Shared {
            forward: FORWARDS.fetch_add(1, Ordering::Relaxed),
            qkv,
            heads,
            norms,
            cos,
            sin,
            caches,
            capacity: keys.size()[1] as usize,
            past,
            rows,
            vectors: (rows * heads.queries / heads.keys).div_ceil(LANES),
            visibility,
            instructions,
            result,
        }
    }
}

/// All that both steps share. Addresses stand for memory of which no two items write the same part.
struct Shared<'t, T> {
    /// Tells this forward from others.
    forward: u64,
    qkv: Handover<T>,
    heads: Heads,
    /// Weight and epsilon, of queries and of keys.
    norms: Option<[(&'t [T], f32); 2]>,
    cos: &'t [f32],
    sin: &'t [f32],
    /// Of keys and of values.
    caches: [usize; 2],
    capacity: usize,
    past: usize,
    rows: usize,
    /// Vectors of query rows per key head.
    vectors: usize,
    visibility: &'t Visibility,
    instructions: InstructionSet,
    result: Handover<T>,
}

impl<T: Element> Shared<'_, T> {
    fn total(&self) -> usize {
        self.past + self.rows
    }

    /// Query heads per key head.
    fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// A head of a row of `qkv`.
    #[inline(always)]
    fn input(&self, row: usize, head: usize) -> &[T] {
        let Heads { queries, keys, width, .. } = self.heads;
        let qkv = unsafe { self.qkv.read() };
        &qkv[(row * (queries + 2 * keys) + head) * width..][..width]
    }

    /// Cosines and sines of a row.
    #[inline(always)]
    fn angles(&self, row: usize) -> [&[f32]; 2] {
        let half = self.heads.width / 2;
        [self.cos, self.sin].map(|table| &table[row * half..][..half])
    }

    /// `count` rows of a key head in a cache, from a position on.
    #[inline(always)]
    unsafe fn cache<'c>(&self, which: usize, head: usize, position: usize, count: usize) -> &'c mut [T] {
        let width = self.heads.width;
        let offset = (head * self.capacity + position) * width;
        unsafe { std::slice::from_raw_parts_mut((self.caches[which] as *mut T).add(offset), count * width) }
    }

    /// The query rows of a vector, numbered through rows and the query heads that share a key head.
    #[inline(always)]
    fn queries(&self, vector: usize) -> Range<usize> {
        vector * LANES..((vector + 1) * LANES).min(self.rows * self.group())
    }

    /// Row and query head of a query row of a key head.
    #[inline(always)]
    fn row_and_head(&self, key_head: usize, query: usize) -> (usize, usize) {
        (query / self.group(), key_head * self.group() + query % self.group())
    }
}

const KEYS: usize = 0;
const VALUES: usize = 1;

/// What is multiplied at once.
type Unit<T, I> = <<T as Element>::Sums<I> as Sums>::Unit;
/// Numbers that are multiplied.
type Number<T, I> = <<T as Element>::Sums<I> as Sums>::Number;
