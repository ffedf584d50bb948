//! The largest entries of rows of logits.

use crate::element::Element;
use crate::exponential::exp;
use crate::memory::SharedMut;
use crate::threads::{Work, in_turn};
use crate::vector::{Instructions, Kernel, LANES, Vector, sum};
use crate::{Cpu, InstructionSet};

pub(crate) fn log_probs<T: Element>(
    cpu: Cpu,
    logits: &[T],
    vocabulary: usize,
    width: usize,
) -> (Vec<f32>, Vec<u32>) {
    let (mut best, normalisers) = scan::<T, true>(cpu, logits, vocabulary, width);
    for (row, (largest, sum)) in best.chunks_exact_mut(width).zip(normalisers) {
        for (logit, _) in row {
            *logit = (*logit - largest) - sum.ln();
        }
    }
    best.into_iter().unzip()
}

pub(crate) fn largest<T: Element>(cpu: Cpu, logits: &[T], vocabulary: usize) -> Vec<(f32, u32)> {
    scan::<T, false>(cpu, logits, vocabulary, 1).0
}

/// A logit and its index.
type Entry = (f32, u32);
/// A row's largest logit, and the sum of exponentials relative to it.
type Normaliser = (f32, f32);

/// Per row the best entries, and what normalises them if `PROBABILITIES` are wanted.
fn scan<T: Element, const PROBABILITIES: bool>(
    cpu: Cpu,
    logits: &[T],
    vocabulary: usize,
    width: usize,
) -> (Vec<Entry>, Vec<Normaliser>) {
    assert!(width > 0, "at least one entry of each row");
    assert!(vocabulary > 0 && logits.len().is_multiple_of(vocabulary), "logits are rows of {vocabulary}");
    let rows = logits.len() / vocabulary;
    let mut best = vec![(f32::NEG_INFINITY, 0); rows * width];
    let mut normalisers = vec![(0.0, 0.0); rows];
    let scan = Scan::<T, PROBABILITIES> {
        instructions: cpu.instructions,
        logits,
        vocabulary,
        width,
        best: SharedMut::of(&mut best),
        normalisers: SharedMut::of(&mut normalisers),
    };
    // SAFETY: The work is made here; each row writes its own part of the results, which are nobody
    // else's.
    unsafe { in_turn(cpu.threads, [&scan]) };
    (best, normalisers)
}

/// An item is a row.
struct Scan<'t, T, const PROBABILITIES: bool> {
    instructions: InstructionSet,
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
        // SAFETY: There are `width` entries and one normaliser for each row, which is this item's
        // own.
        let (best, normaliser) =
            unsafe { (self.best.part(row * self.width, self.width), &mut self.normalisers.part(row, 1)[0]) };
        self.instructions.run(ScanRow::<T, PROBABILITIES> { logits, best, normaliser });
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

/// Sorts entries into the best, which are in falling order. If one is NaN, they all become so, and
/// it returns false.
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
