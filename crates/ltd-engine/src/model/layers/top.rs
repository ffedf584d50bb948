//! What is taken from logits: the best tokens, and how probable they are.

use tch::{Kind, Tensor};

use super::host;
use crate::Result;

const COLUMNS: i64 = 1;

/// The `width` most probable entries of each row of `[n, vocabulary]`: log-probs and indices, `[n, width]` row-major,
/// best first within a row, with one transfer to the host.
pub(in crate::model) fn top_log_probs(logits: &Tensor, width: usize) -> Result<(Vec<f32>, Vec<u32>)> {
    if host::supports(logits.device(), logits.kind()) {
        return Ok(host::top_log_probs(logits, width));
    }
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    let (log_probs, ids) = log_probs.f_topk(width as i64, COLUMNS, true, true)?;
    // Ids below 2^24 are exact in f32, so that one tensor carries both.
    let both = Tensor::f_cat(&[log_probs, ids.f_to_kind(Kind::Float)?], COLUMNS)?;
    let both: Vec<f32> = Vec::try_from(both.view(-1))?;
    let rows = both.chunks_exact(2 * width);
    let log_probs = rows.clone().flat_map(|row| row[..width].iter().copied()).collect();
    let ids = rows.flat_map(|row| row[width..].iter().map(|&id| id as u32)).collect();
    Ok((log_probs, ids))
}

/// Entropy, in nats, of the distribution that each row of logits `[n, vocabulary]` is.
pub(crate) fn entropies(logits: &Tensor) -> Result<Vec<f32>> {
    let log_probs = logits.f_log_softmax(COLUMNS, Kind::Float)?;
    let products = log_probs.f_exp()?.f_mul(&log_probs)?;
    Ok(Vec::try_from(products.f_sum_dim_intlist(COLUMNS, false, Kind::Float)?.f_neg()?)?)
}

/// Index of the largest entry of each row of `[n, vocabulary]`.
pub(crate) fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    if host::supports(logits.device(), logits.kind()) {
        return Ok(host::argmax(logits));
    }
    let choices: Vec<i64> = Vec::try_from(logits.f_argmax(-1, false)?)?;
    Ok(choices.into_iter().map(|token| token as u32).collect())
}
