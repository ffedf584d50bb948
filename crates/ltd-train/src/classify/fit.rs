//! Fitting a classifier.

use ltd_contenders::AcceptanceHead;
use ltd_env::Interrupt;
use ltd_policy::Mlp;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::samples::Samples;
use crate::Result;
use crate::autograd::{Adam, Network};

/// That of the appendix of Learning to Draft (arXiv 2603.01639), which uses `AdamW`.
const LEARNING_RATE: f64 = 1e-4;
/// The default of `AdamW` in PyTorch: what a step of size 1 takes from each parameter.
const WEIGHT_DECAY: f64 = 0.01;
const ADAM_EPS: f64 = 1e-8;
const BATCH: usize = 64;
/// Epochs without a smaller loss on the held-out tokens after which it ends.
const PATIENCE: usize = 20;

/// A network that learns how probable tokens are to be accepted.
pub(super) trait Classifying {
    /// What it is when it has learned.
    type Frozen;

    /// Log-odds of acceptance, of `[samples, features]`: `[samples]`.
    fn log_odds(&self, features: &Tensor) -> Tensor;

    fn parameters(&self) -> Vec<Tensor>;

    fn frozen(&self) -> Self::Frozen;
}

/// Layers with `ReLU` between them.
impl Classifying for Network {
    type Frozen = Mlp;

    fn log_odds(&self, features: &Tensor) -> Tensor {
        self.forward(features).squeeze_dim(-1)
    }

    fn parameters(&self) -> Vec<Tensor> {
        self.parameters()
    }

    fn frozen(&self) -> Mlp {
        Mlp::new(&self.to_linears())
    }
}

/// An [`AcceptanceHead`] that learns.
pub(super) struct Residual {
    layer: Network,
    output: Network,
}

impl Residual {
    /// For states of this width.
    pub(super) fn new(hidden: usize, random: &mut ChaCha8Rng) -> Self {
        let [layer, output] = [hidden, 1].map(|outputs| Network::new(hidden, &[], outputs, 1.0, random));
        Self { layer, output }
    }
}

impl Classifying for Residual {
    type Frozen = AcceptanceHead;

    fn log_odds(&self, states: &Tensor) -> Tensor {
        let mut x = states.shallow_clone();
        for _ in 0..AcceptanceHead::LAYERS {
            x = &x + self.layer.forward(&x).silu();
        }
        self.output.log_odds(&x)
    }

    fn parameters(&self) -> Vec<Tensor> {
        [&self.layer, &self.output].into_iter().flat_map(Network::parameters).collect()
    }

    fn frozen(&self) -> AcceptanceHead {
        let [layer, output] = [&self.layer, &self.output].map(|network| network.to_linears().remove(0));
        AcceptanceHead::new(&layer, &output).expect("invariant: it has these shapes")
    }
}

/// What is done about rejected tokens being rarer or more than accepted ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Balance {
    /// As many of each are drawn.
    Drawn,
    /// All count, rejected ones so much more.
    Weighted(f64),
}

/// How well a classifier tells held-out tokens apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quality {
    /// Mean log loss in nats, of tokens balanced as in learning.
    pub(super) loss: f64,
    /// Share that is told right of as many accepted tokens as others.
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

/// Mean log loss of log-odds, `[samples]`, where tokens that are not accepted have this weight.
fn loss(log_odds: &Tensor, accepted: &Tensor, rejected: f64) -> Tensor {
    let weights = accepted * (1.0 - rejected) + rejected;
    let losses = (log_odds.softplus() - log_odds * accepted) * &weights;
    losses.sum(Kind::Float) / weights.sum(Kind::Float)
}

/// Lets a network learn to tell accepted tokens from others; it is returned as it was after the
/// epoch with the least loss on `held_out`. Both sets must have tokens of both kinds. `observer` is
/// told the epochs that are over and the loss.
pub(super) fn fit<C: Classifying>(
    network: &C,
    (train, held_out): (&Samples, &Samples),
    balance: Balance,
    epochs: usize,
    random: &mut ChaCha8Rng,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(usize, f64),
) -> Result<(C::Frozen, Quality)> {
    let halves = held_out.balanced(random);
    let drawn = train.balanced(random);
    let (learned, checked, rejected) = match balance {
        Balance::Drawn => (&drawn, &halves, 1.0),
        Balance::Weighted(rejected) => (train, held_out, rejected),
    };
    let [samples, check] = [learned, checked].map(Tensors::of);
    let parameters = network.parameters();
    let mut adam = Adam::new(&parameters, ADAM_EPS);
    let mut order: Vec<i64> = (0..learned.len() as i64).collect();
    let mut best: Option<(usize, Quality, C::Frozen)> = None;
    for epoch in 1..=epochs {
        order.shuffle(random);
        for rows in order.chunks(BATCH) {
            interrupt.check()?;
            let rows = Tensor::from_slice(rows);
            let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows);
            let log_odds = network.log_odds(&of_rows(&samples.features));
            let loss = loss(&log_odds, &of_rows(&samples.accepted), rejected);
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
        let reached = tch::no_grad(|| {
            loss(&network.log_odds(&check.features), &check.accepted, rejected).double_value(&[])
        });
        if best.as_ref().is_none_or(|(_, quality, _)| reached < quality.loss) {
            let [accuracy, f1] = accuracy_and_f1(&judged(network, &halves)?);
            let quality = Quality { loss: reached, accuracy, f1, auc: auc(&judged(network, held_out)?) };
            best = Some((epoch, quality, network.frozen()));
        }
        observer(epoch, reached);
        if best.as_ref().is_some_and(|(best, ..)| epoch >= best + PATIENCE) {
            break;
        }
    }
    let (_, quality, frozen) = best.expect("invariant: there is an epoch");
    Ok((frozen, quality))
}

/// The log-odds that a network gives samples, each with whether it was accepted.
fn judged(network: &impl Classifying, samples: &Samples) -> Result<Vec<(f32, bool)>> {
    let log_odds = tch::no_grad(|| network.log_odds(&Tensors::of(samples).features));
    let log_odds = Vec::<f32>::try_from(log_odds.contiguous()).map_err(ltd_engine::Error::from)?;
    Ok(log_odds.into_iter().zip(samples.accepted.iter().copied()).collect())
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
    use ltd_engine::{Controller, Glimpse};

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
            let mut random = ltd_env::stream(1, "test");
            let network = Network::new(3, &[128], 1, 1.0, &mut random);
            let sets = (&train, &held_out);
            fit(&network, sets, Balance::Drawn, epochs, &mut random, &Interrupt::default(), note)
                .expect("fitted")
        };
        let mut losses = Vec::new();
        let (mlp, quality) = fitted(100, &mut losses);
        assert!(losses[49] < losses[9] && losses[9] < losses[0], "{losses:?}");
        let mut again = Vec::new();
        fitted(3, &mut again);
        assert_eq!(again, losses[..3], "a seed says all");
        assert!(quality.loss < 0.9 * std::f64::consts::LN_2, "{quality:?}");
        assert!(quality.accuracy > 0.85 && quality.f1 > 0.85 && quality.auc > 0.85, "{quality:?}");
        let mut scratch = mlp.scratch();
        let mut log_odds = |x: f32| mlp.forward(&[x, 0.5, 1.0], &mut scratch)[0];
        assert!(log_odds(0.9) > log_odds(0.3) && log_odds(0.3) > log_odds(0.05));
    }

    #[test]
    fn rejected_tokens_count_as_much_as_they_are_told_to() {
        let [log_odds, accepted] = [[2.0f32, -1.0, 0.5], [1.0, 1.0, 0.0]].map(|row| Tensor::from_slice(&row));
        let of = |log_odds: f64, sign: f64| (1.0 + (-sign * log_odds).exp()).ln();
        let expected = (of(2.0, 1.0) + of(-1.0, 1.0) + 6.0 * of(0.5, -1.0)) / 8.0;
        assert!((loss(&log_odds, &accepted, 6.0).double_value(&[]) - expected).abs() < 1e-6);
    }

    #[test]
    fn an_acceptance_head_learns_and_says_the_same_when_frozen() {
        let mut samples = Samples::default();
        for number in 0..600 {
            let state = [0.618f32, 0.414, 0.732].map(|step| (number as f32 * step).fract() - 0.5);
            samples.push(&state, state[0] * state[1] > 0.0);
        }
        let mut random = ltd_env::stream(1, "test");
        let network = Residual::new(3, &mut random);
        // The loss of a wrong guess must outweigh the rest.
        let balance = Balance::Weighted(AcceptanceHead::MISMATCH_WEIGHT);
        let sets = (&samples, &samples);
        let mut losses = Vec::new();
        let note = &mut |_, loss| losses.push(loss);
        let (head, quality) =
            fit(&network, sets, balance, 60, &mut random, &Interrupt::default(), note).expect("fitted");
        assert!(losses[59] < losses[0] && quality.loss <= losses[59], "{losses:?}");
        // The last epoch was the best one.
        assert_eq!(head, network.frozen());
        let mut rule = ltd_contenders::SpecDec::new(&head, 60);
        for state in samples.features.chunks_exact(3).take(20) {
            let log_odds = network.log_odds(&Tensor::from_slice(state).view([1, 3])).double_value(&[0]);
            rule.begin_cycle();
            let scores = [-0.1; 2];
            let summary = ltd_policy::CycleSummary {
                scores: &scores,
                beam_width: 1,
                frontier: 1,
                draft_depth: 1,
                context_length: 9,
            };
            rule.look(&summary, &Glimpse { states: state, ..Glimpse::default() });
            let rejected = 1.0 / (1.0 + log_odds.exp());
            rule.threshold = rejected - 1e-4;
            assert!(!rule.continue_drafting(&summary));
            rule.threshold = rejected + 1e-4;
            assert!(rule.continue_drafting(&summary));
        }
    }
}
