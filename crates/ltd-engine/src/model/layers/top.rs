//! What is taken from logits: the best tokens, and how probable they are.

use tch::{Device, Kind, Tensor};

use super::host;
use crate::Result;
use crate::transfer::{Download, Waited};

const COLUMNS: i64 = 1;

/// The most probable entries of some rows, on their way to the host.
pub(crate) enum Best {
    Here(Vec<f32>, Vec<u32>),
    There(BestOfParts),
}

/// The best entries of each of some equal parts of each row.
pub(crate) struct BestOfParts {
    /// Log-probs, and numbers within the part, `[n, parts * width]` each; a number is two f32, of
    /// which the first is its lower half.
    fetched: Download,
    width: usize,
    parts: usize,
    /// Entries of a part.
    entries: u32,
}

/// Begins to fetch the `width` most probable entries of each row of `[n, vocabulary]`.
pub(crate) fn best_log_probs(logits: &Tensor, width: usize) -> Result<Best> {
    if host::supports(logits.device(), logits.kind()) {
        let (log_probs, ids) = host::top_log_probs(logits, width);
        return Ok(Best::Here(log_probs, ids));
    }
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    let parts = stage(&log_probs.size(), width as i64).unwrap_or(1);
    Ok(Best::There(BestOfParts::of(&log_probs, width, parts)?))
}

impl Best {
    /// Log-probs and indices, `[n, width]` row-major, best first within a row.
    pub(in crate::model) fn read(self, waited: &Waited) -> Result<(Vec<f32>, Vec<u32>)> {
        match self {
            Self::Here(log_probs, ids) => Ok((log_probs, ids)),
            Self::There(of_parts) => of_parts.read(waited),
        }
    }
}

impl BestOfParts {
    fn of(scores: &Tensor, width: usize, parts: i64) -> Result<Self> {
        let entries = scores.size()[1] / parts;
        let split = scores.f_view([-1, parts, entries])?;
        let (best, within) = split.f_topk(width as i64, 2, true, false)?;
        // One tensor carries both.
        let both =
            Tensor::f_cat(&[best.f_view([-1, 1])?, within.view_dtype(Kind::Float).f_view([-1, 2])?], 1)?;
        Ok(Self { fetched: Download::begin(&both)?, width, parts: parts as usize, entries: entries as u32 })
    }

    fn read(self, waited: &Waited) -> Result<(Vec<f32>, Vec<u32>)> {
        let Self { width, parts, entries, .. } = self;
        let fetched: Vec<f32> = self.fetched.read(waited)?;
        let rows = fetched.chunks_exact(3 * parts * width).flat_map(|row| {
            let candidates = row.chunks_exact(3).enumerate().map(|(place, candidate)| {
                (candidate[0], candidate[1].to_bits() + (place / width) as u32 * entries)
            });
            let mut candidates: Vec<(f32, u32)> = candidates.collect();
            // Of equals the first. (Where one is NaN, all of the row are.)
            candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            candidates.truncate(width);
            candidates
        });
        Ok(rows.unzip())
    }
}

/// The `count` largest entries of each row of `[n, entries]`, the largest first.
pub(crate) fn top_values(rows: &Tensor, count: i64) -> Result<Tensor> {
    let mut best = rows.shallow_clone();
    while let Some(parts) = stage(&best.size(), count).filter(|_| rows.device() != Device::Cpu) {
        let [n, entries] = [best.size()[0], best.size()[1]];
        let split = best.f_view([n, parts, entries / parts])?;
        best = split.f_topk(count, 2, true, false)?.0.f_view([n, parts * count])?;
    }
    Ok(best.f_topk(count, COLUMNS, true, true)?.0)
}

/// The `place`-th largest entry of each row of `[n, entries]`, counted from 1: `[n, 1]`.
pub(crate) fn nth_largest(rows: &Tensor, place: i64) -> Result<Tensor> {
    if rows.device() == Device::Cpu {
        // The largest are found faster there than a place in between.
        return Ok(rows.f_topk(place, COLUMNS, true, true)?.0.narrow(1, place - 1, 1));
    }
    Ok(rows.f_kthvalue(rows.size()[1] - place + 1, COLUMNS, true)?.0)
}

/// Parts in which the best `count` of rows are sought first, each on its own; none where the rows
/// are short enough. LibTorch's CUDA has two ways to the best of a row: a kernel of one block, or
/// for long rows some twenty kernels (bounds of `should_use_multiblock` in version 2.11).
fn stage(size: &[i64], count: i64) -> Option<i64> {
    let &[rows, entries] = size else { unreachable!("rows of entries") };
    let longest = |rows: i64| match rows {
        ..=20 => 20_000,
        21..=40 => 10_000,
        41..=80 => 8000,
        81..=199 => 5000,
        200..=799 => 3000,
        800..=4000 => 800,
        _ => 400,
    };
    if entries < longest(rows) {
        return None;
    }
    // A part of not many more than are sought would leave nothing out.
    let fits = |parts: &i64| entries % parts == 0 && entries / parts >= 2 * count;
    (2..=entries / (2 * count).max(1)).filter(fits).find(|parts| entries / parts < longest(rows * parts))
}

/// Entropy, in nats, of the distribution that each row of logits `[n, vocabulary]` is.
pub(crate) fn entropies(logits: &Tensor) -> Result<Vec<f32>> {
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    let products = log_probs.f_exp()?.f_mul(&log_probs)?;
    Ok(Vec::try_from(products.f_sum_dim_intlist(COLUMNS, false, Kind::Float)?.f_neg()?)?)
}

/// Where the largest entries of some rows are.
pub(crate) enum Argmax {
    Here(Vec<(f32, u32)>),
    /// Entry and index, `[n, 2]`.
    There(Tensor),
}

/// An [`Argmax`] on its way to the host.
pub(crate) enum FetchedArgmax {
    Here(Vec<(f32, u32)>),
    There(Download),
}

impl Argmax {
    /// Where the largest entry of each row of `[n, vocabulary]` is.
    pub(crate) fn of(logits: &Tensor) -> Result<Self> {
        if host::supports(logits.device(), logits.kind()) {
            return Ok(Self::Here(host::argmax(logits)));
        }
        // Of equals the first, and of a row with a NaN that.
        let (largest, indices) = logits.f_max_dim(COLUMNS, true)?;
        let both = [largest.f_to_kind(Kind::Float)?, indices.f_to_kind(Kind::Float)?];
        Ok(Self::There(Tensor::f_cat(&both, COLUMNS)?))
    }

    /// Begins to fetch it.
    pub(crate) fn fetch(self) -> Result<FetchedArgmax> {
        Ok(match self {
            Self::Here(found) => FetchedArgmax::Here(found),
            Self::There(both) => FetchedArgmax::There(Download::begin(&both)?),
        })
    }

    /// The same with another tensor in the place of its own.
    pub(crate) fn map(&self, other: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Here(found) => Self::Here(found.clone()),
            Self::There(both) => Self::There(other(both)?),
        })
    }
}

impl FetchedArgmax {
    /// The indices; none of a row that chooses nothing: it holds a NaN or plus infinity, or nothing
    /// but minus infinity.
    pub(crate) fn read(self, waited: &Waited) -> Result<Vec<Option<u32>>> {
        let found = match self {
            Self::Here(found) => found,
            Self::There(both) => {
                both.read(waited)?.chunks_exact(2).map(|row: &[f32]| (row[0], row[1] as u32)).collect()
            }
        };
        let chosen = |(largest, index): (f32, u32)| largest.is_finite().then_some(index);
        Ok(found.into_iter().map(chosen).collect())
    }
}

/// Index of the first row, if there is one, with an entry that is NaN or infinite.
pub(crate) fn first_not_finite(rows: &Tensor) -> Result<Option<usize>> {
    let finite: Vec<bool> = Vec::try_from(rows.f_isfinite()?.f_all_dim(COLUMNS, false)?)?;
    Ok(finite.iter().position(|finite| !finite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_parts_are_the_best() {
        let scores = Tensor::randn([3, 96], (Kind::Float, Device::Cpu));
        let (values, ids) = scores.topk(5, COLUMNS, true, true);
        let values = Vec::<f32>::try_from(values.view(-1)).expect("f32");
        let ids: Vec<u32> =
            Vec::<i64>::try_from(ids.view(-1)).expect("i64").into_iter().map(|id| id as u32).collect();
        for parts in [1, 2, 6, 16] {
            let found = BestOfParts::of(&scores, 5, parts).expect("the best");
            let found = found.read(&Waited::for_devices(&[])).expect("read");
            assert_eq!(found, (values.clone(), ids.clone()));
        }
    }

    #[test]
    fn long_rows_are_searched_in_parts_that_a_block_can_search() {
        for (rows, entries, count, expected) in [
            (1, 128_256, 40, Some(8)),
            (61, 128_256, 40, Some(334)),
            (61, 334 * 40, 40, Some(5)),
            (1, 15_000, 40, None),
            // Nothing divides it.
            (61, 128_257, 40, None),
            (1, 128_256, 65_000, None),
        ] {
            assert_eq!(stage(&[rows, entries], count), expected, "{rows} rows of {entries}");
        }
    }
}
