//! Attention of a few rows over a cache: rotation, storing of keys and values, and grouped-query attention under a
//! tree mask.
//!
//! Query heads that share a key head are rows of one matrix product, in f32.

use std::cell::RefCell;

use gemm::Parallelism;
use tch::Tensor;

use super::element::{Element, with_element};
use super::norm::inverse_rms;
use super::simd::{Kernel, LANES, Vector, dispatch, exp};
use super::{elements, elements_mut, parallel};

/// Rows that one item of attention does, and one of rotation.
const ROWS_PER_ITEM: usize = 16;

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

/// Norms of each query and key head before the rotation, `[head_dim]` each (Qwen3).
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct HeadNorms<'t> {
    pub(in super::super) query: &'t Tensor,
    pub(in super::super) key: &'t Tensor,
    pub(in super::super) eps: f32,
}

/// What the rows of a forward look at.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Visibility<'m> {
    /// Positions that all rows see.
    pub(in super::super) everywhere: usize,
    /// Which of the positions after those each row sees, row-major; absent if all rows see all.
    pub(in super::super) sees: Option<&'m [bool]>,
}

thread_local! {
    /// Memory that forwards use again.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ITEM: RefCell<ItemScratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    /// Rotated and scaled queries, `[key heads, rows, group, width]`.
    queries: Vec<f32>,
    /// Keys and values, `[2, key heads, total, width]`.
    cached: Vec<f32>,
}

/// Of an item of attention.
#[derive(Default)]
struct ItemScratch {
    /// `[rows * group, total]`.
    scores: Vec<f32>,
    /// `[rows * group, width]`.
    attended: Vec<f32>,
}

/// Rotates the queries and keys of `qkv` (`[n, (query heads + 2 key heads) * width]`), stores keys and values at rows
/// `past..past + n` of the caches (`[key heads, capacity, width]`), and attends: `[n, query heads * width]`. `cos` and
/// `sin` are those of the rows, `[n, width / 2]`.
#[expect(clippy::too_many_arguments, reason = "the formula has so many terms")]
pub(in super::super) fn attend(
    qkv: &Tensor,
    heads: Heads,
    norms: Option<HeadNorms>,
    cos: &[f32],
    sin: &[f32],
    keys: &Tensor,
    values: &Tensor,
    past: usize,
    visibility: Visibility,
) -> Tensor {
    let rows = qkv.size()[0] as usize;
    let result =
        qkv.new_empty([rows as i64, (heads.queries * heads.width) as i64], (qkv.kind(), qkv.device()));
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.queries.resize(rows * heads.queries * heads.width, 0.0);
        scratch.cached.resize(2 * heads.keys * (past + rows) * heads.width, 0.0);
        with_element!(qkv.kind(), T => {
            // The caches are written in the rotation only, and read after it.
            let shared = unsafe {
                Shared::<T> {
                    qkv: elements(qkv),
                    heads,
                    norms: norms.map(|norms| (elements(norms.query), elements(norms.key), norms.eps)),
                    cos,
                    sin,
                    caches: [keys, values].map(|cache| elements_mut::<T>(cache).as_mut_ptr() as usize),
                    capacity: keys.size()[1] as usize,
                    past,
                    rows,
                    visibility,
                    queries: scratch.queries.as_mut_ptr() as usize,
                    cached: scratch.cached.as_mut_ptr() as usize,
                    result: elements_mut::<T>(&result).as_mut_ptr() as usize,
                }
            };
            let blocks = rows.div_ceil(ROWS_PER_ITEM);
            let rotation = Rotation(&shared);
            parallel::for_each(blocks, &|item| dispatch(&rotation, item));
            let conversion = Conversion(&shared);
            parallel::for_each(2 * heads.keys, &|item| dispatch(&conversion, item));
            let attention = Attention(&shared);
            parallel::for_each(heads.keys * blocks, &|item| dispatch(&attention, item));
        });
    });
    result
}

/// All that the three steps share. Addresses stand for memory of which no two items write the same part.
struct Shared<'t, T> {
    qkv: &'t [T],
    heads: Heads,
    norms: Option<(&'t [T], &'t [T], f32)>,
    cos: &'t [f32],
    sin: &'t [f32],
    /// Of keys and of values.
    caches: [usize; 2],
    capacity: usize,
    past: usize,
    rows: usize,
    visibility: Visibility<'t>,
    queries: usize,
    cached: usize,
    result: usize,
}

impl<T: Element> Shared<'_, T> {
    fn total(&self) -> usize {
        self.past + self.rows
    }

    /// Query heads per key head.
    fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// `count` rows of a key head in a cache, from a position on.
    #[inline(always)]
    unsafe fn cache<'c>(&self, which: usize, head: usize, position: usize, count: usize) -> &'c mut [T] {
        let width = self.heads.width;
        let offset = (head * self.capacity + position) * width;
        unsafe { std::slice::from_raw_parts_mut((self.caches[which] as *mut T).add(offset), count * width) }
    }

    /// `count` rows of the queries of a key head, each `[group, width]`, from a row on.
    #[inline(always)]
    unsafe fn queries<'q>(&self, head: usize, row: usize, count: usize) -> &'q mut [f32] {
        let width = self.group() * self.heads.width;
        let offset = (head * self.rows + row) * width;
        unsafe { std::slice::from_raw_parts_mut((self.queries as *mut f32).add(offset), count * width) }
    }

    /// All keys or values of a key head, `[total, width]`, in f32.
    #[inline(always)]
    unsafe fn cached<'c>(&self, which: usize, head: usize) -> &'c mut [f32] {
        let size = self.total() * self.heads.width;
        let offset = (which * self.heads.keys + head) * size;
        unsafe { std::slice::from_raw_parts_mut((self.cached as *mut f32).add(offset), size) }
    }
}

/// First step: norms, rotation, storing.
struct Rotation<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Rotation<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let Heads { queries, keys, width, scale } = shared.heads;
        let (half, group) = (width / 2, shared.group());
        let query_norm = shared.norms.map(|(query, _, eps)| (query, eps));
        let key_norm = shared.norms.map(|(_, key, eps)| (key, eps));
        let first = item * ROWS_PER_ITEM;
        for row in first..shared.rows.min(first + ROWS_PER_ITEM) {
            let input = &shared.qkv[row * (queries + 2 * keys) * width..][..(queries + 2 * keys) * width];
            let (cos, sin) = (&shared.cos[row * half..][..half], &shared.sin[row * half..][..half]);
            for head in 0..queries {
                let output = unsafe { shared.queries(head / group, row, 1) };
                let output = &mut output[head % group * width..][..width];
                rotate::<FUSED, T, f32>(&input[head * width..][..width], query_norm, cos, sin, scale, output);
            }
            let (input_keys, input_values) = input[queries * width..].split_at(keys * width);
            for head in 0..keys {
                let output = unsafe { shared.cache(0, head, shared.past + row, 1) };
                let input = &input_keys[head * width..][..width];
                rotate::<FUSED, T, T>(input, key_norm, cos, sin, 1.0, output);
                let output = unsafe { shared.cache(1, head, shared.past + row, 1) };
                output.copy_from_slice(&input_values[head * width..][..width]);
            }
        }
    }
}

/// One head, normed if asked for, rotated (half-split convention) and scaled.
#[inline(always)]
fn rotate<const FUSED: bool, T: Element, U: Element>(
    input: &[T],
    norm: Option<(&[T], f32)>,
    cos: &[f32],
    sin: &[f32],
    scale: f32,
    output: &mut [U],
) {
    let half = input.len() / 2;
    let (low, high) = input.split_at(half);
    let (output_low, output_high) = output.split_at_mut(half);
    let angles = cos[..half].iter().zip(&sin[..half]);
    let outputs = output_low.iter_mut().zip(&mut output_high[..half]);
    let rotations = low.iter().zip(&high[..half]).zip(angles).zip(outputs);
    // Two loops: a choice inside of one would keep it from being vectorised.
    match norm {
        None => {
            for (((low, high), (cos, sin)), (output_low, output_high)) in rotations {
                let (low, high) = (low.to_f32() * scale, high.to_f32() * scale);
                *output_low = U::from_f32(low * cos - high * sin);
                *output_high = U::from_f32(high * cos + low * sin);
            }
        }
        Some((weight, eps)) => {
            let factor = inverse_rms::<FUSED, T>(input, eps) * scale;
            let (weight_low, weight_high) = weight.split_at(half);
            let weights = weight_low.iter().zip(&weight_high[..half]);
            for ((((low, high), (cos, sin)), (output_low, output_high)), (weight_low, weight_high)) in
                rotations.zip(weights)
            {
                let low = low.to_f32() * factor * weight_low.to_f32();
                let high = high.to_f32() * factor * weight_high.to_f32();
                *output_low = U::from_f32(low * cos - high * sin);
                *output_high = U::from_f32(high * cos + low * sin);
            }
        }
    }
}

/// Second step: the cached keys or values of a head in f32.
struct Conversion<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Conversion<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let (which, head) = (item / shared.heads.keys, item % shared.heads.keys);
        let input = unsafe { shared.cache(which, head, 0, shared.total()) };
        let output = unsafe { shared.cached(which, head) };
        for (output, input) in output.iter_mut().zip(input) {
            *output = input.to_f32();
        }
    }
}

/// Third step: scores, softmax, weighted values.
struct Attention<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Attention<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let (width, total, group) = (shared.heads.width, shared.total(), shared.group());
        let blocks = shared.rows.div_ceil(ROWS_PER_ITEM);
        let (head, first) = (item / blocks, item % blocks * ROWS_PER_ITEM);
        let rows = ROWS_PER_ITEM.min(shared.rows - first);
        let count = rows * group;
        // Not `with_borrow_mut`: a closure handed to it is compiled without this kernel's instructions.
        let mut scratch = ITEM.take();
        let ItemScratch { scores, attended } = &mut scratch;
        scores.resize(count * total, 0.0);
        attended.resize(count * width, 0.0);
        let (keys, values) = unsafe { (&*shared.cached(0, head), &*shared.cached(1, head)) };
        let queries = unsafe { shared.queries(head, first, rows) };
        product([count, width, total], queries, [width, 1], keys, [1, width], scores);
        for (index, scores) in scores.chunks_exact_mut(total).enumerate() {
            self.softmax::<FUSED>(first + index / group, scores);
        }
        product([count, total, width], scores, [total, 1], values, [width, 1], attended);
        let stride = shared.heads.queries * width;
        for (row, attended) in attended.chunks_exact(group * width).enumerate() {
            let offset = (first + row) * stride + head * group * width;
            let output = unsafe {
                std::slice::from_raw_parts_mut((shared.result as *mut T).add(offset), group * width)
            };
            for (output, value) in output.iter_mut().zip(attended) {
                *output = T::from_f32(*value);
            }
        }
        ITEM.set(scratch);
    }
}

impl<T: Element> Attention<'_, '_, T> {
    /// Turns a row's scores into weights that add up to 1; what it does not see weighs nothing.
    #[inline(always)]
    fn softmax<const FUSED: bool>(&self, row: usize, scores: &mut [f32]) {
        let Visibility { everywhere, sees } = self.0.visibility;
        if let Some(sees) = sees {
            let columns = scores.len() - everywhere;
            for (score, sees) in scores[everywhere..].iter_mut().zip(&sees[row * columns..][..columns]) {
                *score = if *sees { *score } else { f32::NEG_INFINITY };
            }
        }
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        let mut highest: Vector = [f32::NEG_INFINITY; LANES];
        for chunk in &*chunks {
            for (highest, score) in highest.iter_mut().zip(chunk) {
                *highest = if *score > *highest { *score } else { *highest };
            }
        }
        let highest = highest.iter().chain(&*rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut sums: Vector = [0.0; LANES];
        for chunk in &mut *chunks {
            for (sum, score) in sums.iter_mut().zip(chunk) {
                *score = exp::<FUSED>(*score - highest);
                *sum += *score;
            }
        }
        let mut sum = super::simd::sum(sums);
        for score in rest {
            *score = exp::<FUSED>(*score - highest);
            sum += *score;
        }
        let factor = 1.0 / sum;
        for score in scores {
            *score *= factor;
        }
    }
}

/// `a b`, `[m, k] x [k, n] -> [m, n]`; strides are those of rows and of columns.
fn product(
    [m, k, n]: [usize; 3],
    a: &[f32],
    a_strides: [usize; 2],
    b: &[f32],
    b_strides: [usize; 2],
    result: &mut [f32],
) {
    assert!(a.len() >= m * k && b.len() >= k * n && result.len() >= m * n);
    let [a_row, a_column] = a_strides.map(|stride| stride as isize);
    let [b_row, b_column] = b_strides.map(|stride| stride as isize);
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            result.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_column,
            a_row,
            b.as_ptr(),
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
