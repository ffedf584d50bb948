//! Attention of a few rows over a cache: rotation, storing of keys and values, and grouped-query
//! attention under a tree mask.
//!
//! Query heads that share a key head are rows of one problem, sixteen of them in the lanes of a
//! vector: keys and values are read as they stand in the cache, and the softmax is computed lane by
//! lane. Sums are taken in the order of the positions, and what a row does not see adds 0: its
//! result does not depend on the rows beside it.

mod rotation;
mod rows;
mod shared;
mod storing;
mod units;
mod visibility;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Cpu;
use crate::element::Element;
use crate::memory::{Handover, Line, SharedMut};
use crate::norm::{Input, RowNorm};
use crate::product::{Columns, Inputs, Linear, Then};
use crate::threads::in_turn;
use crate::vector::LANES;
use rows::Rows;
use shared::Shared;
use storing::Storing;

pub use shared::Heads;
pub use visibility::Visibility;

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

/// Norms of each query and key head before the rotation (Qwen3).
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'t, T> {
    /// Of queries, `[head width]`.
    pub query: RowNorm<'t, T>,
    /// Of keys, `[head width]`.
    pub key: RowNorm<'t, T>,
}

/// Keys and values of one layer, each `[key heads, capacity, head width]`.
#[derive(Debug)]
pub struct Caches<'t, T> {
    /// The keys.
    pub keys: &'t mut [T],
    /// The values.
    pub values: &'t mut [T],
    /// Positions that there is room for.
    pub capacity: usize,
    /// Positions that are there; those of the new rows come after them.
    pub past: usize,
}

/// What is done between the projections: queries and keys are rotated, keys and values stored
/// behind the `past` positions of the caches, and attended to.
#[derive(Debug)]
pub struct Attention<'t, T> {
    /// Sizes of the heads.
    pub heads: Heads,
    /// Norms of the heads, if there are any.
    pub norms: Option<HeadNorms<'t, T>>,
    /// Cosines of the rows' angles, `[n, head width / 2]`.
    pub cos: &'t [f32],
    /// Sines of the rows' angles, `[n, head width / 2]`.
    pub sin: &'t [f32],
    /// Where keys and values are, and those of the rows are put.
    pub caches: Caches<'t, T>,
    /// Which positions each row sees.
    pub visibility: &'t Visibility,
}

#[expect(private_bounds, reason = "for this crate alone")]
impl<T: Element> Attention<'_, T> {
    pub(crate) fn run(mut self, cpu: Cpu, qkv: &[T], result: &mut [T]) {
        let shared = self.shared(cpu, qkv.into(), SharedMut::of(result));
        // SAFETY: The work is made here; it writes the result and the caches, which are nobody
        // else's.
        unsafe { in_turn(cpu.threads, [&Storing(&shared), &Rows(&shared)]) };
    }

    pub(crate) fn run_projected(
        mut self,
        cpu: Cpu,
        [qkv, output]: [Linear<T>; 2],
        x: &[T],
        norm: Option<RowNorm<T>>,
        residual: &[T],
        result: &mut [T],
    ) {
        let rows = x.len() / qkv.weight.inputs();
        MEMORY.with_borrow_mut(|memory| {
            let Memory { normed, projected, attended } = memory;
            let input = Input::new(cpu, x, norm, normed);
            let projected = SharedMut::<T>::new(projected, rows * qkv.weight.outputs());
            let attended = SharedMut::<T>::new(attended, rows * self.heads.queries * self.heads.width);
            let qkv = qkv.product(cpu, Inputs::new(input.rows), Then::Nothing, projected);
            let shared = self.shared(cpu, projected.into(), attended);
            let residual = Then::Plus(Columns::of(residual.into(), output.weight.outputs()));
            let output = output.product(cpu, Inputs::new(attended.into()), residual, SharedMut::of(result));
            // SAFETY: The work is made here; what one of them writes (normed rows, projections,
            // caches, what is attended to, the result) is nobody else's but that of the later ones,
            // which read it.
            unsafe { in_turn(cpu.threads, [&input, &qkv, &Storing(&shared), &Rows(&shared), &output]) };
        });
    }

    /// What the steps share. All that they do is within what is checked here.
    fn shared<'s>(&'s mut self, cpu: Cpu, qkv: Handover<'s, T>, result: SharedMut<'s, T>) -> Shared<'s, T> {
        static FORWARDS: AtomicU64 = AtomicU64::new(0);
        let Self { heads, norms, cos, sin, caches, visibility } = self;
        let Caches { keys, values, capacity, past } = caches;
        let (heads, capacity, past) = (*heads, *capacity, *past);
        let Heads { queries, keys: key_heads, width, .. } = heads;
        assert!(key_heads > 0 && queries.is_multiple_of(key_heads), "{queries} heads share {key_heads}");
        assert!(width > 0 && width.is_multiple_of(2), "heads of {width} are rotated by halves");
        let row = (queries + 2 * key_heads) * width;
        let rows = qkv.len() / row;
        assert_eq!((qkv.len(), result.len()), (rows * row, rows * queries * width), "projections, result");
        assert_eq!([cos.len(), sin.len()], [rows * (width / 2); 2], "angles of {rows} rows");
        let size = key_heads.checked_mul(width).and_then(|row| row.checked_mul(capacity));
        assert_eq!([Some(keys.len()), Some(values.len())], [size; 2], "caches of {capacity} positions");
        let room = capacity.checked_sub(past);
        assert!(room.is_some_and(|room| rows <= room), "{rows} rows after {past} in a cache of {capacity}");
        let vectors = (rows * queries / key_heads).div_ceil(LANES);
        visibility.check(vectors, past + rows);
        let norms = norms.map(|HeadNorms { query, key }| [query, key].map(|norm| (norm.weight, norm.eps)));
        for (weight, _) in norms.iter().flatten() {
            assert_eq!(weight.len(), width, "norms of heads");
        }
        Shared {
            forward: FORWARDS.fetch_add(1, Ordering::Relaxed),
            qkv,
            heads,
            norms,
            cos,
            sin,
            caches: [SharedMut::of(keys), SharedMut::of(values)],
            capacity,
            past,
            rows,
            vectors,
            visibility,
            instructions: cpu.instructions,
            result,
        }
    }
}
