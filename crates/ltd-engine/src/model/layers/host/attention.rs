//! Attention of a few rows over a cache: rotation, storing of keys and values, and grouped-query attention under a
//! tree mask.
//!
//! Query heads that share a key head are rows of one problem, sixteen of them in the lanes of a vector: keys and values are
//! read as they stand in the cache, and the softmax is computed lane by lane. In f32 a row's result does not depend on the
//! rows beside it.

use std::any::TypeId;
use std::cell::RefCell;

use tch::Tensor;

use super::element::{Element, with_element};
use super::norm::inverse_rms;
use super::simd::{InstructionSet, Instructions, Kernel, LANES, Vector, dispatch_to, exp};
use super::sums::{Sums, product};
use super::{elements, elements_mut, parallel};

/// Rows that one item of the rotation does: with any number of query heads per key head, these fill whole vectors.
const ROWS_PER_ITEM: usize = LANES;

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
#[derive(Debug, Clone)]
pub(in super::super) struct Visibility {
    /// Positions that all rows see.
    everywhere: usize,
    /// Which lanes see each of the positions after those, `[vectors of query rows, positions]`; absent if all see all.
    seeing: Option<Vec<u16>>,
}

impl Visibility {
    /// Rows that all see `everywhere` positions and of those after them what `sees` says, row-major; `group` query
    /// heads share a key head.
    pub(in super::super) fn new(everywhere: usize, sees: Option<&[bool]>, rows: usize, group: usize) -> Self {
        let seeing = sees.map(|sees| {
            let (count, positions) = (rows * group, sees.len() / rows);
            // Lanes that are left over see what the last row does.
            let row = |lane: usize| lane.min(count - 1) / group;
            let lanes = |vector: usize, position: usize| {
                let seeing = |lane| sees[row(vector * LANES + lane) * positions + position];
                (0..LANES).fold(0, |lanes, lane| lanes | u16::from(seeing(lane)) << lane)
            };
            let vectors = 0..count.div_ceil(LANES);
            vectors
                .flat_map(|vector| (0..positions).map(move |position| (vector, position)))
                .map(|(vector, position)| lanes(vector, position))
                .collect()
        });
        Self { everywhere, seeing }
    }

    /// Of the positions after those that all see, the ones up to the last that a lane of a vector sees.
    #[inline(always)]
    fn of(&self, vector: usize, total: usize) -> Option<&[u16]> {
        let positions = total - self.everywhere;
        let seeing = &self.seeing.as_ref()?[vector * positions..][..positions];
        let end = seeing.iter().rposition(|lanes| *lanes != 0).map_or(0, |last| last + 1);
        Some(&seeing[..end])
    }
}

thread_local! {
    /// Memory that forwards use again.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ITEM: RefCell<ItemScratch> = RefCell::default();
}

/// Sixteen numbers of four bytes, or as many pairs of two.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line(Vector);

#[derive(Default)]
struct Scratch {
    /// Rotated and scaled queries, `[key heads, vectors, width in units, lanes]`.
    queries: Vec<Line>,
    /// Keys and values that are not read from the cache, `[2, key heads, total, width]`.
    cached: Vec<Line>,
}

/// Of an item.
#[derive(Default)]
struct ItemScratch {
    /// `[total, lanes]`.
    scores: Vec<Line>,
    /// `[total in units, lanes]`.
    weights: Vec<Line>,
    /// `[width, lanes]`.
    attended: Vec<Line>,
}

/// Rotates the queries and keys of `qkv` (`[n, (query heads + 2 key heads) * width]`), stores keys and values at rows
/// `past..past + n` of the caches (`[key heads, capacity, width]`), and attends: `[n, query heads * width]`. `cos` and
/// `sin` are those of the rows, `[n, width / 2]`. The processor has the `instructions`.
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
    visibility: &Visibility,
    instructions: InstructionSet,
) -> Tensor {
    let rows = qkv.size()[0] as usize;
    let result =
        qkv.new_empty([rows as i64, (heads.queries * heads.width) as i64], (qkv.kind(), qkv.device()));
    let vectors = (rows * heads.queries / heads.keys).div_ceil(LANES);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.queries.resize(heads.keys * vectors * heads.width, Line::default());
        let cached = 2 * heads.keys * (past + rows + 1) * heads.width;
        scratch.cached.resize(cached.div_ceil(LANES), Line::default());
        with_element!(qkv.kind(), T => {
            // The caches are written in the first step only, and read after it.
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
                    vectors,
                    visibility,
                    queries: scratch.queries.as_mut_ptr() as usize,
                    cached: scratch.cached.as_mut_ptr() as usize,
                    result: elements_mut::<T>(&result).as_mut_ptr() as usize,
                }
            };
            let preparation = Preparation(&shared);
            let items = 2 * heads.keys + heads.keys * rows.div_ceil(ROWS_PER_ITEM);
            parallel::for_each(items, &|item| dispatch_to(instructions, &preparation, item));
            let attention = Attention(&shared);
            parallel::for_each(heads.keys * vectors, &|item| dispatch_to(instructions, &attention, item));
        });
    });
    result
}

/// All that both steps share. Addresses stand for memory of which no two items write the same part.
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
    /// Vectors of query rows per key head.
    vectors: usize,
    visibility: &'t Visibility,
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

    /// `count` heads of a row of `qkv`, from one on.
    #[inline(always)]
    fn input(&self, row: usize, head: usize, count: usize) -> &[T] {
        let Heads { queries, keys, width, .. } = self.heads;
        &self.qkv[(row * (queries + 2 * keys) + head) * width..][..count * width]
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

    /// A vector of queries of a key head, `[width in units, lanes]`.
    #[inline(always)]
    unsafe fn queries<'q, S: Sums>(&self, head: usize, vector: usize) -> &'q mut [[S::Unit; LANES]] {
        let steps = self.heads.width / S::NUMBERS;
        let offset = (head * self.vectors + vector) * steps;
        let start = self.queries as *mut [S::Unit; LANES];
        unsafe { std::slice::from_raw_parts_mut(start.add(offset), steps) }
    }

    /// All keys or values of a key head, made for [`Sums`] that cannot read the cache.
    #[inline(always)]
    unsafe fn cached<'c, S: Sums>(&self, which: usize, head: usize) -> &'c mut [S::Unit] {
        let size = (self.total() + 1) * self.heads.width;
        let offset = (which * self.heads.keys + head) * size;
        unsafe { std::slice::from_raw_parts_mut((self.cached as *mut S::Unit).add(offset), size) }
    }

    /// Keys as units `[total, width in units]`, values as units `[total in units, width]`.
    #[inline(always)]
    unsafe fn units<'c, S: Sums>(&self, which: usize, head: usize) -> &'c [S::Unit] {
        unsafe {
            if !Self::in_cache::<S>(which) {
                return self.cached::<S>(which, head);
            }
            let cache = self.cache(which, head, 0, self.total());
            std::slice::from_raw_parts(cache.as_ptr().cast(), cache.len() / S::NUMBERS)
        }
    }

    /// Whether keys or values can be read from the cache: they are of the right type, and numbers that are multiplied
    /// together are neighbours.
    fn in_cache<S: Sums>(which: usize) -> bool {
        TypeId::of::<T>() == TypeId::of::<S::Number>() && (which == KEYS || S::NUMBERS == 1)
    }
}

const KEYS: usize = 0;
const VALUES: usize = 1;

/// First step: norms, rotation, storing.
struct Preparation<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Preparation<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, item: usize) {
        let keys = self.0.heads.keys;
        if item < keys {
            self.keys::<I>(item);
        } else if item < 2 * keys {
            self.values::<I>(item - keys);
        } else {
            self.queries::<I>((item - 2 * keys) % keys, (item - 2 * keys) / keys * ROWS_PER_ITEM);
        }
    }
}

impl<T: Element> Preparation<'_, '_, T> {
    /// Queries of a key head, from a row on.
    #[inline(always)]
    fn queries<I: Instructions>(&self, head: usize, first: usize) {
        let (shared, group, width) = (self.0, self.0.group(), self.0.heads.width);
        let norm = shared.norms.map(|(query, _, eps)| (query, eps));
        let mut scratch = ITEM.take();
        let lines = (width * size_of::<Number<T, I>>()).div_ceil(size_of::<Line>());
        scratch.attended.resize(lines.max(scratch.attended.len()), Line::default());
        let rotated: &mut [Number<T, I>] =
            unsafe { std::slice::from_raw_parts_mut(scratch.attended.as_mut_ptr().cast(), width) };
        for row in first..shared.rows.min(first + ROWS_PER_ITEM) {
            let inputs = shared.input(row, head * group, group);
            for (query, input) in (row * group..).zip(inputs.chunks_exact(width)) {
                rotate::<I, T, _>(input, norm, shared.angles(row), shared.heads.scale, rotated);
                let lanes = unsafe { shared.queries::<T::Sums<I>>(head, query / LANES) };
                let units = rotated.chunks_exact(T::Sums::<I>::NUMBERS);
                for (lanes, numbers) in lanes.iter_mut().zip(units) {
                    lanes[query % LANES] = T::Sums::<I>::unit(numbers[0], numbers[numbers.len() - 1]);
                }
            }
        }
        ITEM.set(scratch);
    }

    #[inline(always)]
    fn keys<I: Instructions>(&self, head: usize) {
        let shared = self.0;
        let norm = shared.norms.map(|(_, key, eps)| (key, eps));
        for row in 0..shared.rows {
            let output = unsafe { shared.cache(KEYS, head, shared.past + row, 1) };
            let input = shared.input(row, shared.heads.queries + head, 1);
            rotate::<I, T, T>(input, norm, shared.angles(row), 1.0, output);
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(KEYS) {
            let (keys, units) = unsafe {
                (shared.cache(KEYS, head, 0, shared.total()), shared.cached::<T::Sums<I>>(KEYS, head))
            };
            assert!(T::Sums::<I>::NUMBERS == 1, "invariant: pairs are of the model's own type");
            for (unit, key) in units.iter_mut().zip(keys) {
                let number = Element::from_f32(key.to_f32());
                *unit = T::Sums::<I>::unit(number, number);
            }
        }
    }

    #[inline(always)]
    fn values<I: Instructions>(&self, head: usize) {
        let (shared, width) = (self.0, self.0.heads.width);
        for row in 0..shared.rows {
            let output = unsafe { shared.cache(VALUES, head, shared.past + row, 1) };
            output.copy_from_slice(shared.input(row, shared.heads.queries + shared.heads.keys + head, 1));
        }
        if !Shared::<T>::in_cache::<T::Sums<I>>(VALUES) {
            let (values, units) = unsafe {
                (shared.cache(VALUES, head, 0, shared.total()), shared.cached::<T::Sums<I>>(VALUES, head))
            };
            let rows = values.chunks(T::Sums::<I>::NUMBERS * width);
            for (units, rows) in units.chunks_exact_mut(width).zip(rows) {
                let (first, second) = rows.split_at(width);
                let number = |value: &T| Element::from_f32(value.to_f32());
                if second.is_empty() {
                    for (unit, first) in units.iter_mut().zip(first) {
                        *unit = T::Sums::<I>::unit(number(first), Number::<T, I>::default());
                    }
                } else {
                    for ((unit, first), second) in units.iter_mut().zip(first).zip(second) {
                        *unit = T::Sums::<I>::unit(number(first), number(second));
                    }
                }
            }
        }
    }
}

/// Numbers that are multiplied.
type Number<T, I> = <<T as Element>::Sums<I> as Sums>::Number;

/// One head, normed if asked for, rotated (half-split convention) and scaled.
#[inline(always)]
fn rotate<I: Instructions, T: Element, U: Element>(
    input: &[T],
    norm: Option<(&[T], f32)>,
    [cos, sin]: [&[f32]; 2],
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
            let factor = inverse_rms::<I, T>(input, eps) * scale;
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

/// Second step: scores, softmax, weighted values, of a vector of query rows.
struct Attention<'s, 't, T>(&'s Shared<'t, T>);

impl<T: Element> Kernel for Attention<'_, '_, T> {
    #[inline(always)]
    fn run<I: Instructions>(&self, item: usize) {
        let shared = self.0;
        let (head, vector) = (item / shared.vectors, item % shared.vectors);
        let (width, total, group) = (shared.heads.width, shared.total(), shared.group());
        let Visibility { everywhere, .. } = *shared.visibility;
        let seeing = shared.visibility.of(vector, total);
        let end = seeing.map_or(total, |seeing| everywhere + seeing.len());
        let steps = end.div_ceil(T::Sums::<I>::NUMBERS);

        // Not `with_borrow_mut`: a closure handed to it is compiled without this kernel's instructions.
        let mut scratch = ITEM.take();
        let ItemScratch { scores, weights, attended } = &mut scratch;
        let scores = vectors(scores, end);
        let weights = vectors(weights, steps);
        let attended = vectors(attended, width);

        let (queries, keys) =
            unsafe { (&*shared.queries::<T::Sums<I>>(head, vector), shared.units::<T::Sums<I>>(KEYS, head)) };
        product::<T::Sums<I>>(keys, [queries.len(), 1], queries, scores);
        for (scores, lanes) in scores[everywhere..].iter_mut().zip(seeing.unwrap_or_default()) {
            hide(scores, *lanes);
        }
        let sums = softmax::<I, T::Sums<I>>(scores, weights);
        let values = unsafe { shared.units::<T::Sums<I>>(VALUES, head) };
        product::<T::Sums<I>>(values, [1, width], weights, attended);

        let factors = sums.map(|sum| 1.0 / sum);
        let lanes = LANES.min(shared.rows * group - vector * LANES);
        let offsets: [usize; LANES] = std::array::from_fn(|lane| {
            let query = vector * LANES + lane;
            ((query / group * shared.heads.keys + head) * group + query % group) * width
        });
        for (column, attended) in attended.iter().enumerate() {
            // Rounded as a vector, then stored number by number.
            let mut rounded = [T::default(); LANES];
            for ((rounded, attended), factor) in rounded.iter_mut().zip(attended).zip(&factors) {
                *rounded = T::from_f32(attended * factor);
            }
            for (rounded, offset) in rounded.iter().zip(&offsets[..lanes]) {
                unsafe { *(shared.result as *mut T).add(offset + column) = *rounded };
            }
        }
        ITEM.set(scratch);
    }
}

/// Memory for `count` vectors, of whatever it was filled with before.
#[inline(always)]
fn vectors<U>(lines: &mut Vec<Line>, count: usize) -> &mut [[U; LANES]] {
    const { assert!(size_of::<[U; LANES]>() == size_of::<Line>()) };
    if lines.len() < count {
        lines.resize(count, Line::default());
    }
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), count) }
}

/// Lowers the scores of lanes that do not see a position.
#[inline(always)]
fn hide(scores: &mut Vector, seeing: u16) {
    for (lane, score) in scores.iter_mut().enumerate() {
        // In numbers, as the compiler would make branches of a choice: 0 or minus infinity is added.
        let hidden = (u32::from(seeing) >> lane & 1).wrapping_sub(1);
        *score += f32::from_bits(hidden & f32::NEG_INFINITY.to_bits());
    }
}

/// Turns scores into weights, lane by lane, and returns what each lane's add up to. What is not seen weighs nothing.
#[inline(always)]
fn softmax<I: Instructions, S: Sums>(scores: &[Vector], weights: &mut [[S::Unit; LANES]]) -> Vector {
    let mut highest: Vector = [f32::NEG_INFINITY; LANES];
    for score in scores {
        for (highest, score) in highest.iter_mut().zip(score) {
            *highest = if *score > *highest { *score } else { *highest };
        }
    }
    let mut sums: Vector = [0.0; LANES];
    for (weights, scores) in weights.iter_mut().zip(scores.chunks(S::NUMBERS)) {
        let first = weigh::<I>(&scores[0], &highest, &mut sums);
        let second =
            if scores.len() == 2 { weigh::<I>(&scores[1], &highest, &mut sums) } else { [0.0; LANES] };
        *weights = S::units(first, second);
    }
    sums
}

#[inline(always)]
fn weigh<I: Instructions>(score: &Vector, highest: &Vector, sums: &mut Vector) -> Vector {
    let mut weight = *score;
    for ((weight, highest), sum) in weight.iter_mut().zip(highest).zip(sums) {
        *weight = exp::<I>(*weight - highest);
        *sum += *weight;
    }
    weight
}
