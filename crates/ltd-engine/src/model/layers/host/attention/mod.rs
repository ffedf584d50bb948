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
use super::memory::{Handover, Line, SharedMut};
use super::norm::{Input, RowNorm};
use super::product::{Biased, Columns, Then};
use super::simd::LANES;
use super::sums::Sums;
use super::{InstructionSet, elements, elements_mut, parallel};
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
    pub(in super::super) instructions: InstructionSet,
}

impl<'t> Attending<'t> {
    /// Attends with what is projected already, `[n, (query heads + 2 key heads) * width]`: `[n, query heads * width]`.
    pub(in super::super) fn attend(&self, qkv: &Tensor) -> Tensor {
        let size = [qkv.size()[0], (self.heads.queries * self.heads.width) as i64];
        let result = qkv.new_empty(size, (qkv.kind(), qkv.device()));
        with_element!(qkv.kind(), T => {
            // SAFETY: The result is new, and the projections are only read until it is returned.
            let (qkv, result) = unsafe { (elements::<T>(qkv), elements_mut::<T>(&result)) };
            let shared = self.shared(qkv.into(), result);
            // SAFETY: The work is made here; it writes the result, and the caches, which `shared` found to be
            // apart and which are in use by one forward at a time.
            unsafe { parallel::in_turn([&Storing(&shared), &Rows(&shared)]) };
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
            // SAFETY: The result is new, and the other ones are only read until it is returned.
            let (x, residual, result) =
                unsafe { (elements::<T>(&x), elements::<T>(&residual), elements_mut::<T>(&result)) };
            let input = Input::new(x, norm, normed);
            let projected = SharedMut::<T>::new(projected, rows * qkv.outputs());
            let attended = SharedMut::<T>::new(attended, rows * self.heads.queries * self.heads.width);
            let qkv = qkv.product(input.rows, Then::Nothing, projected);
            let shared = self.shared(projected.into(), attended);
            let residual = Columns::of(residual.into(), output.outputs());
            let output = output.product(attended.into(), Then::Plus(residual), result);
            // SAFETY: The work is made here; what one of them writes (normed rows, projections, caches, what
            // is attended to, the result) is nobody else's but that of the later ones, which read it. The
            // caches are as in `attend`.
            unsafe { parallel::in_turn([&input, &qkv, &Storing(&shared), &Rows(&shared), &output]) };
        }));
        result
    }

    /// What the steps share. All that they do is within what is checked here.
    fn shared<'s, T: Element>(&self, qkv: Handover<'s, T>, result: SharedMut<'s, T>) -> Shared<'s, T>
    where
        't: 's,
    {
        static FORWARDS: AtomicU64 = AtomicU64::new(0);
        let Self { heads, norms, cos, sin, keys, values, past, visibility, instructions } = *self;
        let Heads { queries, keys: key_heads, width, .. } = heads;
        assert!(key_heads > 0 && queries.is_multiple_of(key_heads), "{queries} heads share {key_heads}");
        assert!(width > 0 && width.is_multiple_of(2), "heads of {width} are rotated by halves");
        let row = (queries + 2 * key_heads) * width;
        let rows = qkv.len() / row;
        assert_eq!((qkv.len(), result.len()), (rows * row, rows * queries * width), "projections, result");
        assert_eq!([cos.len(), sin.len()], [rows * (width / 2); 2], "angles of {rows} rows");
        let &[_, capacity, _] = keys.size().as_slice() else { panic!("a cache of {:?}", keys.size()) };
        for cache in [keys, values] {
            assert_eq!(cache.size(), [key_heads as i64, capacity, width as i64], "keys, values");
        }
        let capacity = capacity as usize;
        let room = capacity.checked_sub(past);
        assert!(room.is_some_and(|room| rows <= room), "{rows} rows after {past} in a cache of {capacity}");
        let vectors = (rows * queries / key_heads).div_ceil(LANES);
        visibility.check(vectors, past + rows);
        // SAFETY: Nobody writes to weights. A cache belongs to a session, which is in one forward at a time:
        // it is written in the first step, and read in the one after it.
        let (norms, caches) = unsafe {
            let elements_of = |norm: RowNorm<'t>| (elements(norm.weight), norm.eps);
            let norms = norms.map(|HeadNorms { query, key }| [query, key].map(elements_of));
            (norms, [keys, values].map(|cache| elements_mut::<T>(cache)))
        };
        for (weight, _) in norms.iter().flatten() {
            assert_eq!(weight.len(), width, "norms of heads");
        }
        let bytes = caches.map(SharedMut::addresses);
        assert!(bytes[0].end <= bytes[1].start || bytes[1].end <= bytes[0].start, "keys and values overlap");
        Shared {
            forward: FORWARDS.fetch_add(1, Ordering::Relaxed),
            qkv,
            heads,
            norms,
            cos,
            sin,
            caches,
            capacity,
            past,
            rows,
            vectors,
            visibility,
            instructions,
            result,
        }
    }
}

/// All that both steps share, of sizes that fit together: [`Attending::shared`] makes it.
struct Shared<'t, T> {
    /// Tells this forward from others.
    forward: u64,
    qkv: Handover<'t, T>,
    heads: Heads,
    /// Weight and epsilon, of queries and of keys.
    norms: Option<[(&'t [T], f32); 2]>,
    cos: &'t [f32],
    sin: &'t [f32],
    /// Of keys and of values.
    caches: [SharedMut<'t, T>; 2],
    capacity: usize,
    past: usize,
    rows: usize,
    /// Vectors of query rows per key head.
    vectors: usize,
    visibility: &'t Visibility,
    instructions: InstructionSet,
    result: SharedMut<'t, T>,
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
    fn input<'q>(&self, qkv: &'q [T], row: usize, head: usize) -> &'q [T] {
        let Heads { queries, keys, width, .. } = self.heads;
        &qkv[(row * (queries + 2 * keys) + head) * width..][..width]
    }

    /// Cosines and sines of a row.
    #[inline(always)]
    fn angles(&self, row: usize) -> [&[f32]; 2] {
        let half = self.heads.width / 2;
        [self.cos, self.sin].map(|table| &table[row * half..][..half])
    }

    /// Where a position of a key head is in a cache.
    fn place(&self, head: usize, position: usize) -> usize {
        (head * self.capacity + position) * self.heads.width
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

/// What is multiplied at once.
type Unit<T, I> = <<T as Element>::Sums<I> as Sums>::Unit;
/// Numbers that are multiplied.
type Number<T, I> = <<T as Element>::Sums<I> as Sums>::Number;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tch::{Device, Kind};

    use super::*;

    /// Two rows after three cached ones, in caches of five.
    struct Case {
        heads: Heads,
        norm: Tensor,
        angles: [Vec<f32>; 2],
        qkv: Tensor,
        keys: Tensor,
        values: Tensor,
        past: usize,
        visibility: Visibility,
    }

    impl Case {
        fn new() -> Self {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            Self {
                heads: Heads { queries: 4, keys: 2, width: 8, scale: 0.4 },
                norm: random(&[8]),
                angles: [vec![0.6; 8], vec![0.8; 8]],
                qkv: random(&[2, 64]),
                keys: random(&[2, 5, 8]),
                values: random(&[2, 5, 8]),
                past: 3,
                visibility: Visibility::new(3, Some(&[true, false, true, true]), 2, 2),
            }
        }

        fn attend(&self) -> Tensor {
            let norm = RowNorm { weight: &self.norm, eps: 1e-5 };
            let attending = Attending {
                heads: self.heads,
                norms: Some(HeadNorms { query: norm, key: norm }),
                cos: &self.angles[0],
                sin: &self.angles[1],
                keys: &self.keys,
                values: &self.values,
                past: self.past,
                visibility: &self.visibility,
                instructions: InstructionSet::best(),
            };
            attending.attend(&self.qkv)
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_memory_is_touched() {
        type Misfit = (&'static str, fn(&mut Case));
        assert_eq!(Case::new().attend().size(), [2, 32]);
        let misfits: [Misfit; 16] = [
            ("no room for the last row", |case| case.past = 4),
            ("a cache that is too small", |case| case.keys = case.keys.narrow(1, 0, 4).contiguous()),
            ("a past beyond all caches", |case| case.past = usize::MAX),
            ("a past that wraps around with its rows", |case| case.past = usize::MAX - 1),
            ("keys of another type", |case| case.keys = case.keys.to_kind(Kind::BFloat16)),
            ("rows of another type", |case| case.qkv = case.qkv.to_kind(Kind::Half)),
            ("too few heads in a cache", |case| case.values = case.values.narrow(0, 0, 1)),
            ("narrower heads in a cache", |case| case.keys = case.keys.narrow(2, 0, 6).contiguous()),
            ("values where the keys are", |case| case.values = case.keys.shallow_clone()),
            ("a cache with gaps", |case| case.keys = Tensor::cat(&[&case.keys; 2], 1).narrow(1, 0, 5)),
            ("angles of one row", |case| case.angles[0].truncate(4)),
            ("no sines", |case| case.angles[1].clear()),
            ("a norm of other heads", |case| case.norm = case.norm.narrow(0, 0, 4)),
            ("rows that are cut off", |case| case.qkv = case.qkv.narrow(1, 0, 63).contiguous()),
            ("heads that cannot be shared", |case| case.heads.queries = 3),
            ("a mask of a longer cache", |case| case.visibility = Visibility::new(3, Some(&[true; 6]), 2, 2)),
        ];
        for (what, change) in misfits {
            let mut case = Case::new();
            change(&mut case);
            assert!(catch_unwind(AssertUnwindSafe(|| case.attend())).is_err(), "{what}");
        }
    }
}
