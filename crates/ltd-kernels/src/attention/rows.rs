//! Second step of the attention: what the new rows see is weighed and added up, a vector of query
//! rows at a time.

use std::cell::Cell;
use std::f32::consts::LOG2_E;

use super::rotation::rotate;
use super::shared::{Number, Shared};
use super::units::Units;
use crate::element::Element;
use crate::memory::{Handover, Line, cast, cast_mut, lines};
use crate::sums::{Sums, product};
use crate::threads::Work;
use crate::vector::{Instructions, Kernel, LANES, Vector};

thread_local! {
    /// Taken out rather than borrowed: a closure handed to `with_borrow_mut` is compiled without
    /// the kernel's instructions.
    static ITEM: Cell<Item> = Cell::default();
}

/// What an item computes on its way.
#[derive(Default)]
struct Item {
    /// `[width in units, lanes]`.
    queries: Vec<Line>,
    /// `[total, lanes]`.
    scores: Vec<Line>,
    /// `[total in units, lanes]`.
    weights: Vec<Line>,
    /// `[width, lanes]`.
    attended: Vec<Line>,
    units: Units,
}

/// Rotated queries, scores, softmax, weighted values, of a vector of query rows of a key head.
pub(super) struct Rows<'s, 't, T>(pub(super) &'s Shared<'t, T>);

impl<T: Element> Work for Rows<'_, '_, T> {
    fn items(&self) -> usize {
        self.0.heads.keys * self.0.vectors
    }

    unsafe fn item(&self, item: usize, _: Option<usize>) {
        let shared = self.0;
        let (head, vector) = (item / shared.vectors, item % shared.vectors);
        let (start, count) = (shared.place(head, 0), shared.total() * shared.heads.width);
        // SAFETY: Projections and caches are there, and nobody writes to them any more: the new
        // rows were stored by the step before. A head's positions stand one after another, and
        // `total` is within the capacity.
        let (qkv, cached) = unsafe {
            (shared.qkv.read(), shared.caches.map(|cache| Handover::from(cache).part(start, count)))
        };
        shared.instructions.run(QueryRows { shared, head, vector, qkv, cached });
    }
}

/// A vector of query rows of a key head, of which its thread may write the result (only [`Rows`]
/// makes one).
struct QueryRows<'s, 't, T> {
    shared: &'s Shared<'t, T>,
    head: usize,
    vector: usize,
    qkv: &'s [T],
    /// Keys and values of the head, each `[total, width]`.
    cached: [&'s [T]; 2],
}

impl<T: Element> Kernel for QueryRows<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let Self { shared, head, vector, cached, .. } = self;
        let (width, total) = (shared.heads.width, shared.total());
        let seeing = shared.visibility.of(vector, total);
        let end = seeing.map_or(total, |seeing| shared.visibility.everywhere + seeing.len());
        let steps = end.div_ceil(T::Sums::<I>::NUMBERS);

        let mut scratch = ITEM.take();
        let Item { queries, scores, weights, attended, units } = &mut scratch;
        let queries = lines(queries, (width / T::Sums::<I>::NUMBERS).next_multiple_of(LANES));
        let scores = lines(scores, end);
        let weights = lines(weights, steps);
        let attended = lines(attended, width.next_multiple_of(LANES));

        self.rotated_queries::<I>(attended, queries);
        let queries = &queries[..width / T::Sums::<I>::NUMBERS];
        let [keys, values] = units.of::<I, T>(shared, head, cached);
        let sums_of_values = &mut attended[..width];
        // A row or two have few query rows.
        let sums = if shared.queries(vector).len() <= LANES / 2 {
            self.attend::<I, LowerHalf<I, T>>([keys, values], queries, scores, weights, sums_of_values)
        } else {
            self.attend::<I, T::Sums<I>>([keys, values], queries, scores, weights, sums_of_values)
        };
        self.store::<I>(attended, sums.map(|sum| 1.0 / sum));
        ITEM.set(scratch);
    }
}

/// Sums of the lower half of the lanes.
type LowerHalf<I, T> = <<T as Element>::Sums<I> as Sums>::LowerHalf;

impl<T: Element> QueryRows<'_, '_, T> {
    /// Scores of the queries, their weights, and the weighted values, which are to be divided by
    /// the sums of the weights that this returns.
    #[inline(always)]
    fn attend<I: Instructions, S: Sums>(
        &self,
        [keys, values]: [&[S::Unit]; 2],
        queries: &[[S::Unit; LANES]],
        scores: &mut [Vector],
        weights: &mut [[S::Unit; LANES]],
        attended: &mut [Vector],
    ) -> Vector {
        let visibility = self.shared.visibility;
        product::<S>(keys, [queries.len(), 1], queries, scores);
        let seeing = visibility.of(self.vector, self.shared.total()).unwrap_or_default();
        for (scores, lanes) in scores[visibility.everywhere..].iter_mut().zip(seeing) {
            *scores = I::select(*scores, *lanes);
        }
        let sums = softmax::<I, S>(scores, weights);
        product::<S>(values, [1, attended.len()], weights, attended);
        sums
    }

    /// The rows' queries as `[width in units, lanes]`, scaled such that powers of two turn scores
    /// into weights. They are rotated one by one into `rows`, whose size they fit in, and
    /// transposed.
    #[inline(always)]
    fn rotated_queries<I: Instructions>(
        &self,
        rows: &mut [Vector],
        queries: &mut [[<T::Sums<I> as Sums>::Unit; LANES]],
    ) {
        let Self { shared, head, vector, qkv, .. } = *self;
        let (width, numbers) = (shared.heads.width, queries.len() * T::Sums::<I>::NUMBERS);
        // A unit has the size of an f32: so many vectors hold all rows' units.
        let rows = &mut rows[..queries.len()];
        let rotated = cast_mut::<Vector, Number<T, I>>(rows);
        let norm = shared.norms.map(|[query, _]| query);
        for (query, rotated) in shared.queries(vector).zip(rotated.chunks_exact_mut(numbers)) {
            let (row, head) = shared.row_and_head(head, query);
            let input = shared.input(qkv, row, head);
            let scale = shared.heads.scale * LOG2_E;
            rotate::<I, T, _>(input, norm, shared.angles(row), scale, &mut rotated[..width]);
        }
        let blocks = queries.len() / LANES;
        // What these lanes held before would be multiplied, too: of subnormal numbers that takes a
        // hundred times as long.
        rows[shared.queries(vector).len() * blocks..].fill([0.0; LANES]);
        for (block, queries) in queries.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = [[0.0; LANES]; LANES];
            for (lane, numbers) in lanes.iter_mut().enumerate() {
                *numbers = rows[lane * blocks + block];
            }
            I::transpose(&mut lanes);
            queries.copy_from_slice(cast(&lanes));
        }
    }

    /// Writes `[width, lanes]` times factors to the rows of the result.
    #[inline(always)]
    fn store<I: Instructions>(&self, attended: &[Vector], factors: Vector) {
        let Self { shared, head, vector, .. } = *self;
        let width = shared.heads.width;
        let queries = shared.queries(vector);
        let starts: [usize; LANES] = std::array::from_fn(|lane| {
            let (row, head) = shared.row_and_head(head, queries.start + lane);
            (row * shared.heads.queries + head) * width
        });
        for (block, attended) in attended.as_chunks::<LANES>().0.iter().enumerate() {
            // Loops, as a closure handed to `map` is compiled without this kernel's instructions.
            let mut columns = *attended;
            for column in &mut columns {
                *column = I::multiply(*column, factors);
            }
            I::transpose(&mut columns);
            for (values, start) in columns.iter().zip(&starts[..queries.len()]) {
                let (first, end) = (block * LANES, width.min((block + 1) * LANES));
                // SAFETY: A part of a head of a row of the result, of which this thread has the
                // query row.
                let output = unsafe { shared.result.part(start + first, end - first) };
                let rounded = T::from_vector::<I>(*values);
                // A whole vector at once, but at the end of an odd width.
                match output.first_chunk_mut() {
                    Some(output) => *output = rounded,
                    None => output.copy_from_slice(&rounded[..output.len()]),
                }
            }
        }
    }
}

/// Turns scores into weights, lane by lane, and returns what each lane's add up to. What is not
/// seen weighs nothing.
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
    let mut below = *score;
    for (below, highest) in below.iter_mut().zip(highest) {
        *below -= highest;
    }
    let weight = I::exp2(below);
    for (sum, weight) in sums.iter_mut().zip(&weight) {
        *sum += weight;
    }
    weight
}
