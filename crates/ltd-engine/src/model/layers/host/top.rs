//! The largest entries of rows of logits.

use tch::Tensor;

use super::element::{Element, with_element};
use super::exponential::exp;
use super::memory::SharedMut;
use super::parallel::{self, Work};
use super::simd::{Instructions, Kernel, LANES, Vector, sum};
use super::{InstructionSet, elements};

/// The `width` most probable entries of each row of `[n, vocabulary]`: their log-probs and their indices, row-major,
/// best first; the earlier of equals first. A row with a NaN has log-probs that are NaN.
pub(in super::super) fn top_log_probs(logits: &Tensor, width: usize) -> (Vec<f32>, Vec<u32>) {
    let (mut best, normalisers) = scan::<true>(logits, width);
    for (row, (largest, sum)) in best.chunks_exact_mut(width).zip(normalisers) {
        for (logit, _) in row {
            *logit = (*logit - largest) - sum.ln();
        }
    }
    best.into_iter().unzip()
}

/// Index of the largest entry of each row of `[n, vocabulary]`, the first of equals.
pub(in super::super) fn argmax(logits: &Tensor) -> Vec<u32> {
    scan::<false>(logits, 1).0.into_iter().map(|(_, index)| index).collect()
}

/// A logit and its index.
type Entry = (f32, u32);
/// A row's largest logit, and the sum of exponentials relative to it.
type Normaliser = (f32, f32);

/// Per row the best entries, and what normalises them if `PROBABILITIES` are wanted.
fn scan<const PROBABILITIES: bool>(logits: &Tensor, width: usize) -> (Vec<Entry>, Vec<Normaliser>) {
    let logits = logits.contiguous();
    let [rows, vocabulary] = logits.size()[..] else {
        panic!("logits are a matrix, not {:?}", logits.size())
    };
    assert!(width > 0, "at least one entry of each row");
    let (rows, vocabulary) = (rows as usize, vocabulary as usize);
    let mut best = vec![(f32::NEG_INFINITY, 0); rows * width];
    let mut normalisers = vec![(0.0, 0.0); rows];
    with_element!(logits.kind(), T => {
        let scan = Scan::<T, PROBABILITIES> {
            // SAFETY: The logits are only read until the result is returned.
            logits: unsafe { elements(&logits) },
            vocabulary,
            width,
            best: SharedMut::of(&mut best),
            normalisers: SharedMut::of(&mut normalisers),
        };
        // SAFETY: The work is made here; each row writes its own part of the results, which are nobody
        // else's.
        unsafe { parallel::in_turn([&scan]) };
    });
    (best, normalisers)
}

/// An item is a row.
struct Scan<'t, T, const PROBABILITIES: bool> {
    logits: &'t [T],
    vocabulary: usize,
    width: usize,
    best: SharedMut<'t, Entry>,
    normalisers: SharedMut<'t, Normaliser>,
}

impl<T: Element, const PROBABILITIES: bool> Work for Scan<'_, T, PROBABILITIES> {
    fn items(&self) -> usize {
        self.normalisers.len()
    }

    unsafe fn item(&self, row: usize, _: Option<usize>) {
        let logits = &self.logits[row * self.vocabulary..][..self.vocabulary];
        // SAFETY: There are `width` entries and one normaliser for each row, which is this item's own.
        let (best, normaliser) =
            unsafe { (self.best.part(row * self.width, self.width), &mut self.normalisers.part(row, 1)[0]) };
        InstructionSet::best().run(ScanRow::<T, PROBABILITIES> { logits, best, normaliser });
    }
}

struct ScanRow<'r, T, const PROBABILITIES: bool> {
    logits: &'r [T],
    /// In falling order; smaller than all logits at first.
    best: &'r mut [Entry],
    normaliser: &'r mut Normaliser,
}

impl<T: Element, const PROBABILITIES: bool> Kernel for ScanRow<'_, T, PROBABILITIES> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let Self { logits, best, normaliser } = self;
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for (number, chunk) in chunks.iter().enumerate() {
            let least = best[best.len() - 1].0;
            let mut above = 0u32;
            for value in chunk {
                above |= u32::from(value.to_f32() > least);
            }
            if above != 0 {
                insert_all(best, chunk, number * LANES);
            }
        }
        insert_all(best, rest, chunks.len() * LANES);
        if PROBABILITIES {
            let largest = best[0].0;
            let mut sums: Vector = [0.0; LANES];
            for chunk in chunks {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum += exp::<I>(value.to_f32() - largest);
                }
            }
            let mut total = sum(sums);
            for value in rest {
                total += exp::<I>(value.to_f32() - largest);
            }
            *normaliser = (largest, total);
        }
    }
}

/// Sorts entries into the best, which are in falling order.
fn insert_all<T: Element>(best: &mut [Entry], values: &[T], first: usize) {
    for (offset, value) in values.iter().enumerate() {
        let value = value.to_f32();
        // An entry displaces only smaller ones: of equals, the first stays in front.
        let place = best.partition_point(|(other, _)| *other >= value);
        if place < best.len() && !value.is_nan() {
            best[place..].rotate_right(1);
            best[place] = (value, (first + offset) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn the_best_are_those_of_libtorch() {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            for (rows, vocabulary, width) in [(1, 1000, 10), (7, 333, 4), (2, 17, 17), (3, 5, 1)] {
                let logits =
                    (Tensor::randn([rows, vocabulary], (Kind::Float, Device::Cpu)) * 4).to_kind(kind);
                let expected = logits.log_softmax(1, Kind::Float);
                let (values, indices) = top_log_probs(&logits, width as usize);
                let (best, _) = expected.topk(width, 1, true, true);
                let values = Tensor::from_slice(&values).view([rows, width]);
                let indices: Vec<i64> = indices.into_iter().map(i64::from).collect();
                let at = expected.gather(1, &Tensor::from_slice(&indices).view([rows, width]), false);
                for other in [best, at] {
                    let error = (&values - other).abs().max().double_value(&[]);
                    assert!(error < 1e-5, "{kind:?} {rows} x {vocabulary}: {error}");
                }
                let first: Vec<i64> = argmax(&logits).into_iter().map(i64::from).collect();
                assert!(
                    logits.gather(1, &Tensor::from_slice(&first).view([rows, 1]), false)
                        == logits.amax([1i64].as_slice(), true)
                );
            }
        }
    }

    #[test]
    fn of_equals_the_first_wins_and_nan_shows() {
        let mut values = vec![0.0f32; 40];
        values[7] = 2.0;
        values[30] = 2.0;
        values[3] = 1.0;
        let (_, indices) = top_log_probs(&Tensor::from_slice(&values).view([1, 40]), 5);
        assert_eq!(indices, [7, 30, 3, 0, 1]);
        values[20] = f32::NAN;
        let (log_probs, _) = top_log_probs(&Tensor::from_slice(&values).view([1, 40]), 5);
        assert!(log_probs.iter().all(|value| value.is_nan()));
    }
}
