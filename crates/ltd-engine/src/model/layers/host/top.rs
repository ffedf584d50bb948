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

/// The largest entry of each row of `[n, vocabulary]` and its index, the first of equals. That of a row with a NaN is NaN.
pub(in super::super) fn argmax(logits: &Tensor) -> Vec<(f32, u32)> {
    scan::<false>(logits, 1).0
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
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN is to be found by the same comparison")]
    fn run<I: Instructions>(self) {
        let Self { logits, best, normaliser } = self;
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for (number, chunk) in chunks.iter().enumerate() {
            let least = best[best.len() - 1].0;
            let mut above = 0u32;
            for value in chunk {
                // A NaN, too, is not at most the least.
                above |= u32::from(!(value.to_f32() <= least));
            }
            if above != 0 && !insert_all(best, chunk, number * LANES) {
                return;
            }
        }
        if !insert_all(best, rest, chunks.len() * LANES) {
            return;
        }
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

/// Sorts entries into the best, which are in falling order. If one is NaN, they all become so, and it returns false.
fn insert_all<T: Element>(best: &mut [Entry], values: &[T], first: usize) -> bool {
    for (offset, value) in values.iter().enumerate() {
        let value = value.to_f32();
        if value.is_nan() {
            best.fill((f32::NAN, 0));
            return false;
        }
        // An entry displaces only smaller ones: of equals, the first stays in front.
        let place = best.partition_point(|(other, _)| *other >= value);
        if place < best.len() {
            best[place..].rotate_right(1);
            best[place] = (value, (first + offset) as u32);
        }
    }
    true
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
                let first: Vec<i64> =
                    argmax(&logits).into_iter().map(|(_, index)| i64::from(index)).collect();
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

    #[test]
    fn a_nan_shows_wherever_it_stands_and_in_its_row_only() {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            // Whole chunks of lanes, and what is left over.
            for place in [0, 1, 16, 31, 63, 64, 69] {
                let logits = Tensor::arange(140, (kind, Device::Cpu)).view([2, 70]);
                let _ = logits.get(0).narrow(0, place, 1).fill_(f64::NAN);
                let found = argmax(&logits);
                assert!(found[0].0.is_nan(), "{kind:?} {place}: {found:?}");
                assert_eq!(found[1], (logits.double_value(&[1, 69]) as f32, 69));
                let (log_probs, _) = top_log_probs(&logits, 3);
                assert!(log_probs[..3].iter().all(|value| value.is_nan()), "{kind:?} {place}");
                assert!(log_probs[3..].iter().all(|value| value.is_finite()), "{kind:?} {place}");
            }
        }
        let nothing = Tensor::full([1, 70], f64::NEG_INFINITY, (Kind::Float, Device::Cpu));
        assert_eq!(argmax(&nothing)[0].0, f32::NEG_INFINITY);
    }
}
