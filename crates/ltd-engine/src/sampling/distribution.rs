//! From logits to probabilities to tokens: pure functions of tensors, on whichever device they are.
//!
//! Plain numbers are tensors without dimensions here. A `Scalar` of tch panics when it is dropped
//! after an operation that failed, and on a device any of these may: memory ends.

use tch::{Kind, Tensor};

use super::SamplingParams;
use crate::Result;
use crate::model::{nth_largest, top_values};

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
    let probabilities = before_nucleus(logits, params)?;
    if params.top_p >= 1.0 {
        return Ok(probabilities);
    }
    let mut count = first_tokens(params, &probabilities);
    loop {
        let (kept, lacks) = nucleus(&probabilities, params, count)?;
        // On a GPU this waits for one number.
        let lacks = lacks.map(|lacks| is_any(&lacks)).transpose()?;
        if lacks != Some(true) {
            return Ok(kept.f_div(&kept.f_sum_dim_intlist(VOCABULARY, true, Kind::Float)?)?);
        }
        count = (count * MORE_TOKENS).min(width(&probabilities));
    }
}

/// Weights of the next token, which need not add up to 1, for [`tokens_at`]: those of
/// [`distribution`], but in rows whose nucleus is larger than usual. A second tensor, `[rows, 1]`,
/// tells those, if there can be any: to look for the rest would mean to wait.
pub(super) fn weights(logits: &Tensor, params: &SamplingParams) -> Result<(Tensor, Option<Tensor>)> {
    let probabilities = before_nucleus(logits, params)?;
    if params.top_p >= 1.0 {
        return Ok((probabilities, None));
    }
    nucleus(&probabilities, params, first_tokens(params, &probabilities))
}

/// Temperature and top-k.
fn before_nucleus(logits: &Tensor, params: &SamplingParams) -> Result<Tensor> {
    // A copy: logits that are f32 already are the caller's.
    let mut logits = logits.f_to_kind(Kind::Float)?.f_div(&Tensor::from(params.temperature))?;
    if let Some(top_k) = params.top_k
        && (top_k as i64) < width(&logits)
    {
        let least = nth_largest(&logits, top_k as i64)?;
        let never = Tensor::from(f64::NEG_INFINITY);
        logits = logits.f_masked_fill_tensor_(&logits.f_lt_tensor(&least)?, &never)?;
    }
    Ok(logits.f_softmax(VOCABULARY, Kind::Float)?)
}

/// Most probable tokens among which the nucleus is sought first.
fn first_tokens(params: &SamplingParams, probabilities: &Tensor) -> i64 {
    params.top_k.map_or(FIRST_TOKENS, |top_k| top_k as i64).min(width(probabilities))
}

/// The smallest set of most probable tokens that reaches `top_p` (arXiv 1904.09751), as far as it
/// is among the `count` most probable ones: probabilities, with 0 for all others. And the rows in
/// which those do not reach it, `[rows, 1]`, if there can be any.
fn nucleus(probabilities: &Tensor, params: &SamplingParams, count: i64) -> Result<(Tensor, Option<Tensor>)> {
    let best = top_values(probabilities, count)?;
    let sums = best.f_cumsum(VOCABULARY, Kind::Double)?;
    let bound = Tensor::from(params.top_p);
    // A token stays while those before it have not reached `top_p`. The first one always does.
    let first = best.narrow(VOCABULARY, 0, 1);
    let least = if count == 1 {
        first
    } else {
        let stays = sums.narrow(VOCABULARY, 0, count - 1).f_lt_tensor(&bound)?;
        let after_first = best.narrow(VOCABULARY, 1, count - 1);
        after_first.f_where_self(&stays, &first)?.f_amin([VOCABULARY], true)?
    };
    let others = probabilities.f_lt_tensor(&least)?;
    let kept = probabilities.f_masked_fill_tensor(&others, &Tensor::from(0.0))?;
    // What is not among the `top_k` best has no probability, or that of the last of them, and then
    // it stays as that does.
    let all = count == width(probabilities) || params.top_k.is_some_and(|top_k| top_k as i64 <= count);
    let lacks = (!all).then(|| last(&sums).f_lt_tensor(&bound)).transpose()?;
    Ok((kept, lacks))
}

/// For each row of `probabilities` (`[rows, vocabulary]`, which need not add up to 1), the token
/// whose interval holds `uniforms` (`[rows, 1]` in f64, each below 1), the tokens' intervals being
/// laid side by side in the order of their ids: `[rows]`, int64. A token without probability has no
/// interval. A row that holds no numbers gives the vocabulary's size.
pub fn tokens_at(probabilities: &Tensor, uniforms: &Tensor) -> Result<Tensor> {
    let ends = probabilities.f_cumsum(VOCABULARY, Kind::Double)?;
    // The sum of rounded probabilities is not exactly 1.
    let places = uniforms.f_mul(&last(&ends))?;
    let tokens = places.f_searchsorted(&ends, false, true, "right", None::<Tensor>)?;
    Ok(tokens.squeeze_dim(VOCABULARY))
}

fn is_any(flags: &Tensor) -> Result<bool> {
    Ok(flags.f_any()?.f_double_value(&[])? != 0.0)
}

/// The last column, `[rows, 1]`.
fn last(rows: &Tensor) -> Tensor {
    rows.narrow(VOCABULARY, width(rows) - 1, 1)
}

fn width(rows: &Tensor) -> i64 {
    rows.size()[1]
}
