//! From logits to probabilities to tokens: pure functions of tensors, on whichever device they are.

use tch::{Kind, Tensor};

use super::SamplingParams;

const VOCABULARY: i64 = -1;

/// Most probable tokens among which the nucleus of `top_p` is sought first. If they do not reach it, more are looked
/// at, in steps of this factor: sorting a vocabulary of 49152 takes 30 times as long on a CPU.
const FIRST_TOKENS: i64 = 256;
const MORE_TOKENS: i64 = 16;

/// Probabilities of the next token, `[rows, vocabulary]` in f32, from logits of the same shape and any type:
/// temperature, then top-k, then top-p, each on what the last one left, in the order and with the meaning of Hugging
/// Face's logits processors. Tokens as probable as the last one that stays, stay too, so that the result does not
/// depend on how a sort treats equals.
///
/// `params` are valid and not greedy. Logits that are not numbers give probabilities that are not numbers.
pub fn distribution(logits: &Tensor, params: &SamplingParams) -> Tensor {
    // Nothing in place: logits that are f32 already are the caller's.
    let mut logits = &logits.to_kind(Kind::Float) / params.temperature;
    if let Some(top_k) = params.top_k
        && (top_k as i64) < width(&logits)
    {
        let (best, _) = logits.topk(top_k as i64, VOCABULARY, true, true);
        let least = best.narrow(VOCABULARY, top_k as i64 - 1, 1);
        logits = logits.masked_fill(&logits.lt_tensor(&least), f64::NEG_INFINITY);
    }
    let probabilities = logits.softmax(VOCABULARY, Kind::Float);
    if params.top_p < 1.0 {
        let first = params.top_k.map_or(FIRST_TOKENS, |top_k| top_k as i64);
        nucleus(&probabilities, params.top_p, first)
    } else {
        probabilities
    }
}

/// The smallest set of most probable tokens that reaches `top_p` (arXiv 1904.09751), normalised. It is sought among
/// the `first` most probable tokens, then among more.
fn nucleus(probabilities: &Tensor, top_p: f64, first: i64) -> Tensor {
    let vocabulary = width(probabilities);
    let mut count = first.min(vocabulary);
    let (best, reached) = loop {
        let (best, _) = probabilities.topk(count, VOCABULARY, true, true);
        let reached = best.cumsum(VOCABULARY, Kind::Double);
        // On a GPU this waits for one number.
        if count == vocabulary || last(&reached).min().double_value(&[]) >= top_p {
            break (best, reached);
        }
        count = (count * MORE_TOKENS).min(vocabulary);
    };
    // A token stays while those before it have not reached `top_p`: the first one always does.
    let stays = (&reached - &best).lt(top_p);
    let count = stays.sum_dim_intlist(VOCABULARY, true, Kind::Int64);
    let least = best.gather(VOCABULARY, &(count - 1).clamp_min(0), false);
    let kept = probabilities.masked_fill(&probabilities.lt_tensor(&least), 0.0);
    &kept / kept.sum_dim_intlist(VOCABULARY, true, Kind::Float)
}

/// For each row of `probabilities` (`[rows, vocabulary]`), the token whose interval holds `uniforms` (`[rows, 1]` in
/// f64, each below 1), the tokens' intervals being laid side by side in the order of their ids: `[rows]`, int64.
/// A token without probability has no interval. A row that holds no numbers gives the vocabulary's size.
pub fn tokens_at(probabilities: &Tensor, uniforms: &Tensor) -> Tensor {
    let ends = probabilities.cumsum(VOCABULARY, Kind::Double);
    // The sum of rounded probabilities is not exactly 1.
    let tokens = (uniforms * last(&ends)).searchsorted(&ends, false, true, "right", None::<Tensor>);
    tokens.squeeze_dim(VOCABULARY)
}

/// The last column, `[rows, 1]`.
fn last(rows: &Tensor) -> Tensor {
    rows.narrow(VOCABULARY, width(rows) - 1, 1)
}

fn width(rows: &Tensor) -> i64 {
    rows.size()[1]
}
