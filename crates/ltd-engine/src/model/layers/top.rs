//! What is taken from logits: the best tokens, and how probable they are.

use tch::{Kind, Tensor};

use super::host;
use crate::Result;

const COLUMNS: i64 = 1;

/// The `width` most probable entries of each row of `[n, vocabulary]`: log-probs and indices, `[n,
/// width]` row-major, best first within a row, with one transfer to the host.
pub(in crate::model) fn top_log_probs(logits: &Tensor, width: usize) -> Result<(Vec<f32>, Vec<u32>)> {
    if host::supports(logits.device(), logits.kind()) {
        return Ok(host::top_log_probs(logits, width));
    }
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    best_of_parts(&log_probs, width, parts(log_probs.size()[1], width))
}

/// Parts in which the best of so many entries are sought, each on its own: for rows as long as a
/// vocabulary LibTorch's CUDA has a way that takes a score of kernels.
fn parts(entries: i64, width: usize) -> i64 {
    const LONGEST: i64 = 8192;
    const MOST: i64 = 64;
    let divides = |parts: &i64| entries % parts == 0 && entries / parts >= width as i64;
    (entries / LONGEST + 1..=MOST).find(divides).unwrap_or(1)
}

/// The best entries of each row, of the best of each of some equal parts.
fn best_of_parts(scores: &Tensor, width: usize, parts: i64) -> Result<(Vec<f32>, Vec<u32>)> {
    let ([rows, entries], count) = (<[i64; 2]>::try_from(scores.size()).expect("rows"), width as i64);
    let split = scores.view([rows, parts, entries / parts]);
    let (of_parts, within) = split.f_topk(count, 2, true, parts == 1)?;
    let (of_parts, within) = (of_parts.view([rows, -1]), within.view([rows, -1]));
    let (best, places) = of_parts.f_topk(count, COLUMNS, true, true)?;
    let within = within.f_gather(COLUMNS, &places, false)?;
    // One tensor carries all: an i64 in the place of two f32, of which the first is its lower half.
    let all = [best, within.view_dtype(Kind::Float), places.view_dtype(Kind::Float)];
    let all: Vec<f32> = Vec::try_from(Tensor::f_cat(&all, COLUMNS)?.view(-1))?;
    let all = all.chunks_exact(5 * width);
    let log_probs = all.clone().flat_map(|row| row[..width].iter().copied()).collect();
    let size = (entries / parts) as u32;
    let ids = all.flat_map(|row| {
        let (within, places) = row[width..].split_at(2 * width);
        let halves = within.iter().zip(places).step_by(2);
        halves.map(|(within, place)| within.to_bits() + place.to_bits() / width as u32 * size)
    });
    Ok((log_probs, ids.collect()))
}

/// Entropy, in nats, of the distribution that each row of logits `[n, vocabulary]` is.
pub(crate) fn entropies(logits: &Tensor) -> Result<Vec<f32>> {
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    let products = log_probs.f_exp()?.f_mul(&log_probs)?;
    Ok(Vec::try_from(products.f_sum_dim_intlist(COLUMNS, false, Kind::Float)?.f_neg()?)?)
}

/// Index of the largest entry of each row of `[n, vocabulary]`; none of a row that chooses nothing:
/// it holds a NaN or plus infinity, or nothing but minus infinity. One transfer to the host.
pub(crate) fn argmax(logits: &Tensor) -> Result<Vec<Option<u32>>> {
    let chosen = |(largest, index): (f32, u32)| largest.is_finite().then_some(index);
    if host::supports(logits.device(), logits.kind()) {
        return Ok(host::argmax(logits).into_iter().map(chosen).collect());
    }
    // Of equals the first, and of a row with a NaN that.
    let (largest, indices) = logits.f_max_dim(COLUMNS, true)?;
    let both = [largest.f_to_kind(Kind::Float)?, indices.f_to_kind(Kind::Float)?];
    let both = Tensor::f_cat(&both, COLUMNS)?;
    let both: Vec<f32> = Vec::try_from(both.view(-1))?;
    Ok(both.chunks_exact(2).map(|row| chosen((row[0], row[1] as u32))).collect())
}

/// Index of the first row, if there is one, with an entry that is NaN or infinite.
pub(crate) fn first_not_finite(rows: &Tensor) -> Result<Option<usize>> {
    let finite: Vec<bool> = Vec::try_from(rows.f_isfinite()?.f_all_dim(COLUMNS, false)?)?;
    Ok(finite.iter().position(|finite| !finite))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_best_of_parts_are_the_best() {
        let scores = Tensor::randn([3, 96], (Kind::Float, Device::Cpu));
        let (values, ids) = scores.topk(5, COLUMNS, true, true);
        let values = Vec::<f32>::try_from(values.view(-1)).expect("f32");
        let ids: Vec<u32> =
            Vec::<i64>::try_from(ids.view(-1)).expect("i64").into_iter().map(|id| id as u32).collect();
        for parts in [1, 2, 6, 16] {
            assert_eq!(best_of_parts(&scores, 5, parts).expect("the best"), (values.clone(), ids.clone()));
        }
    }

    #[test]
    fn rows_as_long_as_a_vocabulary_are_divided_evenly() {
        for (entries, expected) in
            [(32_000, 4), (128_256, 16), (152_064, 22), (8192, 2), (4096, 1), (32_003, 1), (8_388_608, 1)]
        {
            assert_eq!(parts(entries, 10), expected, "{entries}");
        }
        assert_eq!(parts(8193, 4097), 1);
    }
}
