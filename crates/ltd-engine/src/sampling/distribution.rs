//! From logits to probabilities to tokens: pure functions of tensors, on whichever device they are.
//!
//! Plain numbers are tensors without dimensions here. A `Scalar` of tch panics when it is dropped
//! after an operation that failed, and on a device any of these may: memory ends.

use tch::{Kind, Tensor};

use super::SamplingParams;
use crate::Result;

const VOCABULARY: i64 = -1;

/// Most probable tokens among which the nucleus of `top_p` is sought first. If they do not reach
/// it, more are looked at, in steps of this factor: sorting a vocabulary of 49152 takes 30 times as
/// long on a CPU.
const FIRST_TOKENS: i64 = 256;
const MORE_TOKENS: i64 = 16;

/// Probabilities of the next token, `[rows, vocabulary]` in f32, from logits of the same shape and
/// any type: temperature, then top-k, then top-p, each on what the last one left, in the order and
/// with the meaning of Hugging Face's logits processors. Tokens as probable as the last one that
/// stays, stay too, so that the result does not depend on how a sort treats equals.
///
/// `params` are valid and not greedy. Logits that are not numbers give probabilities that are not
/// numbers.
pub fn distribution(logits: &Tensor, params: &SamplingParams) -> Result<Tensor> {
    // Nothing in place: logits that are f32 already are the caller's.
    let mut logits = logits.f_to_kind(Kind::Float)?.f_div(&Tensor::from(params.temperature))?;
    if let Some(top_k) = params.top_k
        && (top_k as i64) < width(&logits)
    {
        let (best, _) = logits.f_topk(top_k as i64, VOCABULARY, true, true)?;
        let least = best.narrow(VOCABULARY, top_k as i64 - 1, 1);
        let never = Tensor::from(f64::NEG_INFINITY);
        logits = logits.f_masked_fill_tensor(&logits.f_lt_tensor(&least)?, &never)?;
    }
    let probabilities = logits.f_softmax(VOCABULARY, Kind::Float)?;
    if params.top_p < 1.0 {
        let first = params.top_k.map_or(FIRST_TOKENS, |top_k| top_k as i64);
        nucleus(&probabilities, params.top_p, first)
    } else {
        Ok(probabilities)
    }
}

/// The smallest set of most probable tokens that reaches `top_p` (arXiv 1904.09751), normalised. It
/// is sought among the `first` most probable tokens, then among more.
fn nucleus(probabilities: &Tensor, top_p: f64, first: i64) -> Result<Tensor> {
    let vocabulary = width(probabilities);
    let mut count = first.min(vocabulary);
    let (best, reached) = loop {
        let (best, _) = probabilities.f_topk(count, VOCABULARY, true, true)?;
        let reached = best.f_cumsum(VOCABULARY, Kind::Double)?;
        // On a GPU this waits for one number.
        if count == vocabulary || last(&reached).f_min()?.f_double_value(&[])? >= top_p {
            break (best, reached);
        }
        count = (count * MORE_TOKENS).min(vocabulary);
    };
    // A token stays while those before it have not reached `top_p`. The first one always does: as
    // many as stay after it, that far is the last one that stays.
    let stays = reached.f_sub(&best)?.f_lt_tensor(&Tensor::from(top_p))?;
    let after_first = stays.narrow(VOCABULARY, 1, width(&stays) - 1);
    let last_place = after_first.f_sum_dim_intlist(VOCABULARY, true, Kind::Int64)?;
    let least = best.f_gather(VOCABULARY, &last_place, false)?;
    let kept = probabilities.f_masked_fill_tensor(&probabilities.f_lt_tensor(&least)?, &Tensor::from(0.0))?;
    Ok(kept.f_div(&kept.f_sum_dim_intlist(VOCABULARY, true, Kind::Float)?)?)
}

/// For each row of `probabilities` (`[rows, vocabulary]`), the token whose interval holds
/// `uniforms` (`[rows, 1]` in f64, each below 1), the tokens' intervals being laid side by side in
/// the order of their ids: `[rows]`, int64. A token without probability has no interval. A row that
/// holds no numbers gives the vocabulary's size.
pub fn tokens_at(probabilities: &Tensor, uniforms: &Tensor) -> Result<Tensor> {
    let ends = probabilities.f_cumsum(VOCABULARY, Kind::Double)?;
    // The sum of rounded probabilities is not exactly 1.
    let places = uniforms.f_mul(&last(&ends))?;
    let tokens = places.f_searchsorted(&ends, false, true, "right", None::<Tensor>)?;
    Ok(tokens.squeeze_dim(VOCABULARY))
}

/// The last column, `[rows, 1]`.
fn last(rows: &Tensor) -> Tensor {
    rows.narrow(VOCABULARY, width(rows) - 1, 1)
}

fn width(rows: &Tensor) -> i64 {
    rows.size()[1]
}
