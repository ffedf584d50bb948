//! Attention of a few rows over a cache: rotation, storing of keys and values, and grouped-query attention under a
//! tree mask.
//!
//! Keys are transposed in blocks of 32, once for all rows that share a key head, so that a block of scores is a sum of
//! vectors; queries go through in fours, to use what was loaded more than once.

use std::cell::RefCell;

use tch::Tensor;

use super::element::{Element, with_element};
use super::norm::inverse_rms;
use super::simd::{Kernel, LANES, Vector, dispatch, exp, multiply_add};
use super::{elements, elements_mut, parallel};

/// Keys in a block.
const BLOCK: usize = 2 * LANES;
/// Queries at a time.
const QUERIES: usize = 4;
/// Rows whose scores one item keeps.
const ROWS_PER_ITEM: usize = 16;
/// Rows of rotation that one item does.
const ROTATIONS_PER_ITEM: usize = 16;

/// Sizes of the heads.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Heads {
    /// Query heads.
    pub(in super::super) queries: usize,
    /// Key and value heads.
    pub(in super::super) keys: usize,
    /// Width of a head, a multiple of a vector.
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
    static SCORES: RefCell<Vec<f32>> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    /// Rotated and scaled queries, `[rows, query heads, width]`.
    queries: Vec<f32>,
    /// Keys, `[key heads, blocks, width, BLOCK]`.
    keys: Vec<f32>,
}

/// Rotates the queries and keys of `qkv` (`[n, (query heads + 2 key heads) * width]`), stores keys and values at rows `past..past + n`
/// of the caches (`[key heads, capacity, width]`), and attends: `[n, query heads * width]`. `cos` and `sin` are those of
/// the rows, `[n, width / 2]`.
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
        let total = past + rows;
        let blocks = total.div_ceil(BLOCK);
        scratch.queries.resize(rows * heads.queries * heads.width, 0.0);
        scratch.keys.resize(heads.keys * blocks * heads.width * BLOCK, 0.0);
        with_element!(qkv.kind(), T => {
            let capacity = keys.size()[1] as usize;
            // The caches are written in the rotation only, and read after it.
            let shared = unsafe {
                Shared::<T> {
                    qkv: elements(qkv),
                    heads,
                    norms: norms.map(|norms| (elements(norms.query), elements(norms.key), norms.eps)),
                    cos,
                    sin,
                    key_cache: elements_mut::<T>(keys).as_mut_ptr() as usize,
                    value_cache: elements_mut::<T>(values).as_mut_ptr() as usize,
                    capacity,
                    past,
                    rows,
                    visibility,
                    queries: scratch.queries.as_mut_ptr() as usize,
                    keys: scratch.keys.as_mut_ptr() as usize,
                    result: elements_mut::<T>(&result).as_mut_ptr() as usize,
                }
            };
            let rotation = Rotation(&shared);
            parallel::for_each(rows.div_ceil(ROTATIONS_PER_ITEM), &|item| dispatch(&rotation, item));
            let transposition = Transposition(&shared);
            parallel::for_each(heads.keys * blocks, &|item| dispatch(&transposition, item));
            let attention = Attention(&shared);
            parallel::for_each(heads.keys * rows.div_ceil(ROWS_PER_ITEM), &|item| dispatch(&attention, item));
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
    key_cache: usize,
    value_cache: usize,
    capacity: usize,
    past: usize,
    rows: usize,
    visibility: Visibility<'t>,
    queries: usize,
    keys: usize,
    result: usize,
}

impl<T: Element> Shared<'_, T> {
    fn total(&self) -> usize {
        self.past + self.rows
    }

    fn blocks(&self) -> usize {
        self.total().div_ceil(BLOCK)
    }

    /// Row `position` of a key head in a cache.
    #[inline(always)]
    unsafe fn cached<'c>(&self, cache: usize, head: usize, position: usize) -> &'c mut [T] {
        let width = self.heads.width;
        let offset = (head * self.capacity + position) * width;
        unsafe { std::slice::from_raw_parts_mut((cache as *mut T).add(offset), width) }
    }

    /// A rotated query.
    #[inline(always)]
    unsafe fn query<'q>(&self, row: usize, head: usize) -> &'q mut [f32] {
        let width = self.heads.width;
        let offset = (row * self.heads.queries + head) * width;
        unsafe { std::slice::from_raw_parts_mut((self.queries as *mut f32).add(offset), width) }
    }

    /// A transposed block of keys, `[width, BLOCK]`.
    #[inline(always)]
    unsafe fn key_block<'k>(&self, head: usize, block: usize) -> &'k mut [f32] {
        let size = self.heads.width * BLOCK;
        let offset = (head * self.blocks() + block) * size;
        unsafe { std::slice::from_raw_parts_mut((self.keys as *mut f32).add(offset), size) }
    }
}

/// First step: norms, rotation, storing.
struct Rotation<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Rotation<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let Heads { queries, keys, width, scale } = shared.heads;
        let half = width / 2;
        let first = item * ROTATIONS_PER_ITEM;
        for row in first..shared.rows.min(first + ROTATIONS_PER_ITEM) {
            let input = &shared.qkv[row * (queries + 2 * keys) * width..][..(queries + 2 * keys) * width];
            let (cos, sin) = (&shared.cos[row * half..][..half], &shared.sin[row * half..][..half]);
            for head in 0..queries {
                let norm = shared.norms.map(|(query, _, eps)| (query, eps));
                let output = unsafe { shared.query(row, head) };
                rotate::<FUSED, T>(&input[head * width..][..width], norm, cos, sin, |index, value| {
                    output[index] = value * scale;
                });
            }
            for head in 0..keys {
                let norm = shared.norms.map(|(_, key, eps)| (key, eps));
                let output = unsafe { shared.cached(shared.key_cache, head, shared.past + row) };
                rotate::<FUSED, T>(
                    &input[(queries + head) * width..][..width],
                    norm,
                    cos,
                    sin,
                    |index, value| {
                        output[index] = T::from_f32(value);
                    },
                );
                let output = unsafe { shared.cached(shared.value_cache, head, shared.past + row) };
                output.copy_from_slice(&input[(queries + keys + head) * width..][..width]);
            }
        }
    }
}

/// One head, normed if asked for and rotated (half-split convention).
#[inline(always)]
fn rotate<const FUSED: bool, T: Element>(
    input: &[T],
    norm: Option<(&[T], f32)>,
    cos: &[f32],
    sin: &[f32],
    mut write: impl FnMut(usize, f32),
) {
    let half = input.len() / 2;
    let factor = norm.map_or(1.0, |(_, eps)| inverse_rms::<FUSED, T>(input, eps));
    for index in 0..half {
        let (mut low, mut high) = (input[index].to_f32() * factor, input[half + index].to_f32() * factor);
        if let Some((weight, _)) = norm {
            low *= weight[index].to_f32();
            high *= weight[half + index].to_f32();
        }
        write(index, low * cos[index] - high * sin[index]);
        write(half + index, high * cos[index] + low * sin[index]);
    }
}

/// Second step: keys in blocks, transposed.
struct Transposition<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Transposition<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let (head, block) = (item / shared.blocks(), item % shared.blocks());
        let output = unsafe { shared.key_block(head, block) };
        let first = block * BLOCK;
        for column in 0..BLOCK.min(shared.total() - first) {
            let key = unsafe { shared.cached(shared.key_cache, head, first + column) };
            for (index, value) in key.iter().enumerate() {
                output[index * BLOCK + column] = value.to_f32();
            }
        }
    }
}

/// Third step: scores, softmax, weighted values.
struct Attention<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Attention<'_, '_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, item: usize) {
        let shared = self.0;
        let items_per_head = shared.rows.div_ceil(ROWS_PER_ITEM);
        let (head, first) = (item / items_per_head, item % items_per_head * ROWS_PER_ITEM);
        let rows = ROWS_PER_ITEM.min(shared.rows - first);
        let group = shared.heads.queries / shared.heads.keys;
        let stride = shared.blocks() * BLOCK;
        let count = rows * group;
        // Not `with_borrow_mut`: a closure handed to it is compiled without this kernel's instructions.
        let mut scores = SCORES.take();
        scores.resize(count * stride, 0.0);
        for start in (0..count).step_by(QUERIES) {
            let mut picked = [0; QUERIES];
            let mut queries: [&[f32]; QUERIES] = [&[]; QUERIES];
            for k in 0..QUERIES {
                // The last ones are repeated to make four.
                picked[k] = (start + k).min(count - 1);
                queries[k] =
                    unsafe { shared.query(first + picked[k] / group, head * group + picked[k] % group) };
            }
            self.scores::<FUSED>(head, &queries, &picked, &mut scores, stride);
        }
        for index in 0..count {
            self.softmax::<FUSED>(first + index / group, &mut scores[index * stride..][..stride]);
        }
        for start in (0..count).step_by(QUERIES) {
            let mut picked = [0; QUERIES];
            for k in 0..QUERIES {
                picked[k] = (start + k).min(count - 1);
            }
            self.weigh::<FUSED>(head, first, &picked, &scores, stride);
        }
        SCORES.set(scores);
    }
}

impl<T: Element> Attention<'_, '_, T> {
    #[inline(always)]
    fn scores<const FUSED: bool>(
        &self,
        head: usize,
        queries: &[&[f32]; QUERIES],
        picked: &[usize; QUERIES],
        scores: &mut [f32],
        stride: usize,
    ) {
        let shared = self.0;
        let width = shared.heads.width;
        for block in 0..shared.blocks() {
            let keys = unsafe { shared.key_block(head, block) };
            let mut sums = [[0.0f32; BLOCK]; QUERIES];
            for index in 0..width {
                let key: &[f32; BLOCK] =
                    keys[index * BLOCK..][..BLOCK].try_into().expect("invariant: a block");
                for (sums, query) in sums.iter_mut().zip(queries) {
                    let value = query[index];
                    for (sum, key) in sums.iter_mut().zip(key) {
                        *sum = multiply_add::<FUSED>(value, *key, *sum);
                    }
                }
            }
            for (sums, index) in sums.iter().zip(picked) {
                scores[index * stride + block * BLOCK..][..BLOCK].copy_from_slice(sums);
            }
        }
    }

    /// Turns a row's scores into weights that add up to 1; what it does not see weighs nothing.
    #[inline(always)]
    fn softmax<const FUSED: bool>(&self, row: usize, scores: &mut [f32]) {
        let shared = self.0;
        let total = shared.total();
        let Visibility { everywhere, sees } = shared.visibility;
        if let Some(sees) = sees {
            let columns = total - everywhere;
            for (score, sees) in scores[everywhere..total].iter_mut().zip(&sees[row * columns..][..columns]) {
                *score = if *sees { *score } else { f32::NEG_INFINITY };
            }
        }
        // Beyond the last key the block holds whatever was there.
        scores[total..].fill(f32::NEG_INFINITY);
        let mut highest: Vector = [f32::NEG_INFINITY; LANES];
        for chunk in scores.chunks_exact(LANES) {
            for (highest, score) in highest.iter_mut().zip(chunk) {
                *highest = highest.max(*score);
            }
        }
        let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut sums: Vector = [0.0; LANES];
        for chunk in scores.chunks_exact_mut(LANES) {
            for (sum, score) in sums.iter_mut().zip(chunk) {
                *score = exp::<FUSED>(*score - highest);
                *sum += *score;
            }
        }
        let factor = 1.0 / super::simd::sum(sums);
        for score in &mut *scores {
            *score *= factor;
        }
    }

    #[inline(always)]
    fn weigh<const FUSED: bool>(
        &self,
        head: usize,
        first: usize,
        picked: &[usize; QUERIES],
        scores: &[f32],
        stride: usize,
    ) {
        let width = self.0.heads.width;
        // Accumulators of four queries and four vectors fill half the registers; narrow heads take fewer.
        for start in (0..width).step_by(4 * LANES) {
            match (width - start) / LANES {
                1 => self.weigh_columns::<FUSED, 1>(head, first, start, picked, scores, stride),
                2 => self.weigh_columns::<FUSED, 2>(head, first, start, picked, scores, stride),
                3 => self.weigh_columns::<FUSED, 3>(head, first, start, picked, scores, stride),
                _ => self.weigh_columns::<FUSED, 4>(head, first, start, picked, scores, stride),
            }
        }
    }

    /// `VECTORS` vectors of columns of the result.
    #[inline(always)]
    fn weigh_columns<const FUSED: bool, const VECTORS: usize>(
        &self,
        head: usize,
        first: usize,
        start: usize,
        picked: &[usize; QUERIES],
        scores: &[f32],
        stride: usize,
    ) {
        let shared = self.0;
        let Heads { queries, keys, width, .. } = shared.heads;
        let group = queries / keys;
        let mut sums = [[[0.0f32; LANES]; VECTORS]; QUERIES];
        let mut weights: [&[f32]; QUERIES] = [&[]; QUERIES];
        for k in 0..QUERIES {
            weights[k] = &scores[picked[k] * stride..][..stride];
        }
        for position in 0..shared.total() {
            let value = unsafe { shared.cached(shared.value_cache, head, position) };
            let input = &value[start..start + VECTORS * LANES];
            let mut value = [[0.0f32; LANES]; VECTORS];
            for (value, input) in value.as_flattened_mut().iter_mut().zip(input) {
                *value = input.to_f32();
            }
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = weights[position];
                for (sums, value) in sums.iter_mut().zip(&value) {
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = multiply_add::<FUSED>(weight, *value, *sum);
                    }
                }
            }
        }
        for (sums, index) in sums.iter().zip(picked) {
            let (row, query) = (first + index / group, head * group + index % group);
            let offset = (row * queries + query) * width + start;
            let output = unsafe {
                std::slice::from_raw_parts_mut((self.0.result as *mut T).add(offset), VECTORS * LANES)
            };
            for (output, sum) in output.iter_mut().zip(sums.as_flattened()) {
                *output = T::from_f32(*sum);
            }
        }
    }
}
