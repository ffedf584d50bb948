//! Fitting a classifier.

use ltd_env::{Interrupt, stream};
use ltd_policy::Mlp;
use rand::seq::SliceRandom;
use tch::{Kind, Tensor};

use super::samples::Samples;
use crate::Result;
use crate::ppo::{Adam, Network};

/// That of the appendix of Learning to Draft (arXiv 2603.01639), which uses `AdamW`.
const LEARNING_RATE: f64 = 1e-4;
/// The default of `AdamW` in PyTorch: what a step of size 1 takes from each parameter.
const WEIGHT_DECAY: f64 = 0.01;
const ADAM_EPS: f64 = 1e-8;
const BATCH: usize = 64;

/// How well a classifier tells held-out tokens apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quality {
    /// Mean log loss on as many accepted tokens as others, in nats; that of a guess is `ln 2`.
    pub(super) loss: f64,
    /// Share of the same that are told right.
    pub(super) accuracy: f64,
    /// Harmonic mean of precision and recall of the accepted ones among the same.
    pub(super) f1: f64,
    /// How probable it is that an accepted token is found more probable than another one: area
    /// under the ROC curve, on all held-out tokens.
    pub(super) auc: f64,
}

/// Samples as tensors.
struct Tensors {
    /// `[samples, features]`.
    features: Tensor,
    /// `[samples]`, 1 or 0.
    accepted: Tensor,
}

impl Tensors {
    fn of(samples: &Samples) -> Self {
        let accepted: Vec<f32> = samples.accepted.iter().map(|&accepted| f32::from(accepted)).collect();
        let features = Tensor::from_slice(&samples.features).view([samples.len() as i64, -1]);
        Self { features, accepted: Tensor::from_slice(&accepted) }
    }
}

/// Mean log loss of log-odds, `[samples]`.
fn loss(log_odds: &Tensor, accepted: &Tensor) -> Tensor {
    (log_odds.softplus() - log_odds * accepted).mean(Kind::Float)
}

/// A network with one hidden layer that gives the log-odds of acceptance, as it was after the epoch
/// with the least loss on `held_out`. Both sets are balanced first; each must have tokens of both
/// kinds. `observer` is told the epochs that are over and the loss.
pub(super) fn fit(
    (train, held_out): (&Samples, &Samples),
    hidden: usize,
    epochs: usize,
    (seed, name): (u64, &str),
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(usize, f64),
) -> Result<(Mlp, Quality)> {
    let mut random = stream(seed, &format!("classifier {name}"));
    let [balanced, checked] = [train, held_out].map(|samples| samples.balanced(&mut random));
    let [samples, check] = [&balanced, &checked].map(Tensors::of);
    let network = Network::new(samples.features.size()[1] as usize, &[hidden], 1, 1.0, &mut random);
    let log_odds = |features: &Tensor| network.forward(features).squeeze_dim(-1);
    let parameters = network.parameters();
    let mut adam = Adam::new(&parameters, ADAM_EPS);
    let mut order: Vec<i64> = (0..balanced.len() as i64).collect();
    let mut best: Option<(f64, Mlp)> = None;
    for epoch in 1..=epochs {
        order.shuffle(&mut random);
        for rows in order.chunks(BATCH) {
            interrupt.check()?;
            let rows = Tensor::from_slice(rows);
            let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows);
            let loss = loss(&log_odds(&of_rows(&samples.features)), &of_rows(&samples.accepted));
            for parameter in &parameters {
                parameter.shallow_clone().zero_grad();
            }
            loss.backward();
            tch::no_grad(|| {
                for parameter in &parameters {
                    let _ = parameter.shallow_clone().g_mul_scalar_(1.0 - LEARNING_RATE * WEIGHT_DECAY);
                }
            });
            adam.step(&parameters, LEARNING_RATE);
        }
        let held_out_loss =
            tch::no_grad(|| loss(&log_odds(&check.features), &check.accepted).double_value(&[]));
        if best.as_ref().is_none_or(|(least, _)| held_out_loss < *least) {
            best = Some((held_out_loss, Mlp::new(&network.to_linears())));
        }
        observer(epoch, held_out_loss);
    }
    let (loss, mlp) = best.expect("invariant: there is an epoch");
    let [accuracy, f1] = accuracy_and_f1(&judged(&mlp, &checked));
    let quality = Quality { loss, accuracy, f1, auc: auc(&judged(&mlp, held_out)) };
    Ok((mlp, quality))
}

/// The log-odds that a network gives samples, each with whether it was accepted.
fn judged(mlp: &Mlp, samples: &Samples) -> Vec<(f32, bool)> {
    let mut scratch = mlp.scratch();
    let rows = samples.features.chunks_exact(mlp.inputs());
    rows.zip(&samples.accepted)
        .map(|(row, &accepted)| (mlp.forward(row, &mut scratch)[0], accepted))
        .collect()
}

/// Accuracy and F1 of log-odds where what is at least as probable as not is said to be accepted.
fn accuracy_and_f1(judged: &[(f32, bool)]) -> [f64; 2] {
    let count = |said: bool, accepted: bool| {
        judged.iter().filter(|(log_odds, is)| (*log_odds >= 0.0, *is) == (said, accepted)).count() as f64
    };
    let (right, wrong, missed) = (count(true, true), count(true, false), count(false, true));
    let f1 = if right > 0.0 { 2.0 * right / (2.0 * right + wrong + missed) } else { 0.0 };
    [(right + count(false, false)) / judged.len() as f64, f1]
}

/// Area under the ROC curve; of equals, half of them count. NaN unless there are samples of both
/// kinds.
fn auc(judged: &[(f32, bool)]) -> f64 {
    let mut sorted = judged.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut others, mut pairs) = (0.0, 0.0);
    for equals in sorted.chunk_by(|a, b| a.0 == b.0) {
        let accepted = equals.iter().filter(|(_, accepted)| *accepted).count() as f64;
        let rest = equals.len() as f64 - accepted;
        pairs += accepted * (others + rest / 2.0);
        others += rest;
    }
    pairs / (others * (judged.len() as f64 - others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_measured() {
        let judged = [(2.0, true), (1.0, false), (-1.0, true), (-2.0, false), (-3.0, false)];
        let [accuracy, f1] = accuracy_and_f1(&judged);
        // One of two accepted ones is found, and one other is taken for one.
        assert_eq!((accuracy, f1), (0.6, 0.5));
        // Of six pairs five are in order.
        assert!((auc(&judged) - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(auc(&[(0.5, true), (0.5, false)]), 0.5);
        assert!(auc(&[(0.5, true)]).is_nan());
    }

    #[test]
    fn a_classifier_learns_what_tells_tokens_apart() {
        // Accepted where the first number is above 0.3, with a few exceptions; the second is noise.
        let samples = |count: usize, shift: f32| {
            let mut samples = Samples::default();
            for number in 0..count {
                let x = (number as f32 * 0.618_034 + shift).fract();
                let y = (number as f32 * 0.414_213 + shift).fract();
                samples.push(&[x, y, 1.0], (x > 0.3) != (number % 20 == 0));
            }
            samples
        };
        let (train, held_out) = (samples(2_000, 0.0), samples(400, 0.37));
        let fitted = |epochs: usize, losses: &mut Vec<f64>| {
            let note = &mut |_, loss| losses.push(loss);
            fit((&train, &held_out), 128, epochs, (1, "test"), &Interrupt::default(), note).expect("fitted")
        };
        let mut losses = Vec::new();
        let (mlp, quality) = fitted(100, &mut losses);
        assert!(losses[99] < losses[9] && losses[9] < losses[0], "{losses:?}");
        let mut again = Vec::new();
        fitted(3, &mut again);
        assert_eq!(again, losses[..3], "a seed says all");
        assert!(quality.loss < 0.9 * std::f64::consts::LN_2, "{quality:?}");
        assert!(quality.accuracy > 0.85 && quality.f1 > 0.85 && quality.auc > 0.85, "{quality:?}");
        let mut scratch = mlp.scratch();
        let mut log_odds = |x: f32| mlp.forward(&[x, 0.5, 1.0], &mut scratch)[0];
        assert!(log_odds(0.9) > log_odds(0.3) && log_odds(0.3) > log_odds(0.05));
    }
}
