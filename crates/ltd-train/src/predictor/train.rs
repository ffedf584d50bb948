//! Fitting the predictor.

use ltd_env::{Interrupt, stream};
use ltd_policy::{Frozen, Mlp, ObservationLayout, Outputs};
use ndarray::ArrayView1;
use rand::seq::SliceRandom;
use tch::{Kind, Tensor};

use super::network::Predictor;
use super::samples::Samples;
use crate::Result;
use crate::autograd::Adam;
use ltd_run::config::PredictorStage;

/// Observations kept with the predictor, to check copies of it.
const PROBES: usize = 32;
const ADAM_EPS: f64 = 1e-8;
/// Share of the steps over which the step size rises from 0.
const WARM_UP: f64 = 0.02;
/// Rows that are evaluated at once.
const EVALUATION_ROWS: i64 = 8192;

/// How an epoch went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Epoch {
    /// From 1.
    pub(crate) number: usize,
    /// Mean loss while training: the squared error, and the log loss of a copy's places.
    pub(crate) loss: f64,
    /// The same on the held-out positions.
    pub(crate) held_out_loss: f64,
    /// Share of the loss of a constant, on the held-out positions, that is avoided: of the variance
    /// of their outcomes, where these are numbers of tokens.
    pub(crate) explained_variance: f64,
}

/// Samples as tensors.
struct Tensors {
    /// `[rows, observation]`.
    observations: Tensor,
    /// `[positions, stops * sizes]`.
    accepted: Tensor,
    /// `[positions, places]`: whether the token at a place of a chain is right, 0 where that is not
    /// known.
    right: Tensor,
    /// The same form: 1 where it is known.
    known: Tensor,
    stops: i64,
    /// `[stops, stops * sizes]`: 1 where a depth has been reached or is still ahead. What a cycle
    /// passed by can no longer be chosen, and its prediction matters to nobody.
    ahead: Tensor,
}

impl Tensors {
    fn of(samples: &Samples) -> Self {
        let tensor = |array: &ndarray::Array2<f32>| {
            let values = array.as_slice().expect("invariant: samples are contiguous");
            Tensor::from_slice(values).view([array.nrows() as i64, array.ncols() as i64])
        };
        let outcomes = tensor(&samples.accepted);
        let (places, columns) = (samples.places as i64, samples.accepted.ncols() as i64);
        let right = outcomes.narrow(1, 0, places);
        let stops = samples.stops.len() as i64;
        let sizes = (columns - places) / stops;
        let ahead = Tensor::ones([stops, stops], (Kind::Float, tch::Device::Cpu)).triu(0);
        Self {
            observations: tensor(&samples.observations),
            accepted: outcomes.narrow(1, places, columns - places).contiguous(),
            known: right.isnan().logical_not().to_kind(Kind::Float),
            right: right.nan_to_num(0.0, None, None),
            stops,
            ahead: ahead.repeat_interleave_self_int(sizes, 1, None),
        }
    }

    /// Sums over some rows, each `[]`, of what is predicted for them, `[batch, places + stops *
    /// sizes]`: the squared errors of what is ahead, how many these are, and the log loss of a
    /// chain's places that are known (how improbable it was that the chain is right so far).
    fn sums(&self, predicted: &Tensor, rows: &Tensor) -> [Tensor; 3] {
        let positions = rows.divide_scalar_mode(self.stops, "floor");
        let of = |tensor: &Tensor| tensor.index_select(0, &positions);
        let (places, outcomes) = (self.right.size()[1], self.accepted.size()[1]);
        let ahead = self.ahead.index_select(0, &rows.remainder(self.stops));
        let errors = predicted.narrow(1, places, outcomes) - of(&self.accepted);
        let squares = errors.square() * &ahead;
        let log_odds = predicted.narrow(1, 0, places);
        let losses = log_odds.softplus() - &log_odds * of(&self.right);
        [squares, ahead, losses * of(&self.known)].map(|terms| terms.sum(Kind::Double))
    }

    /// The loss of some rows, `[]`: the mean squared error, and the mean of the rows' log losses.
    fn loss(&self, predicted: &Tensor, rows: &Tensor) -> Tensor {
        let [squares, count, losses] = self.sums(predicted, rows);
        squares / count + losses / rows.size()[0] as f64
    }

    /// The loss over all rows of what `predict` makes of observations.
    fn total(&self, predict: impl Fn(&Tensor) -> Tensor) -> f64 {
        tch::no_grad(|| {
            let count = self.observations.size()[0];
            let all = Tensor::arange(count, (Kind::Int64, tch::Device::Cpu));
            let mut totals = [0.0; 3];
            for rows in all.split(EVALUATION_ROWS, 0) {
                let predicted = predict(&self.observations.index_select(0, &rows));
                for (total, sum) in totals.iter_mut().zip(self.sums(&predicted, &rows)) {
                    *total += sum.double_value(&[]);
                }
            }
            let [squares, number, losses] = totals;
            squares / number + losses / count as f64
        })
    }
}

/// What a constant predicts best: the mean of each outcome, and of a chain's places the log-odds.
fn constant(samples: &Samples) -> Vec<f32> {
    assert!(samples.accepted.nrows() > 0, "invariant: there are positions");
    let of = |(column, outcomes): (usize, ArrayView1<f32>)| {
        let known = || outcomes.iter().filter(|outcome| !outcome.is_nan());
        let (sum, count) = (known().sum::<f32>(), known().count() as f32);
        if column >= samples.places {
            return sum / count;
        }
        // As if one more of each had been seen: the log-odds of what was never seen are finite.
        let right = (sum + 1.0) / (count + 2.0);
        (right / (1.0 - right)).ln()
    };
    samples.accepted.columns().into_iter().enumerate().map(of).collect()
}

/// Fits a predictor to `samples`, and keeps it as it was after the epoch with the least loss on
/// `held_out`. Squared error makes a prediction an expectation, whatever the distribution; log loss
/// makes it log-odds. `observer` sees each epoch and says whether to go on.
pub(crate) fn train<O: Outputs>(
    samples: &Samples,
    held_out: &Samples,
    (layout, actions): (ObservationLayout, O),
    stage: &PredictorStage,
    seed: u64,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(&Epoch) -> bool,
) -> Result<Frozen<O>> {
    let constant = constant(samples);
    let mut init = stream(seed, "predictor init");
    let predictor = Predictor::new(layout.len(), &stage.net_arch, &constant, &mut init);
    let (train, check) = (Tensors::of(samples), Tensors::of(held_out));
    let constant = Tensor::from_slice(&constant);
    let of_constant = check.total(|observations| constant.expand([observations.size()[0], -1], true));
    let parameters = predictor.parameters();
    let mut adam = Adam::new(&parameters, ADAM_EPS);
    let mut random = stream(seed, "predictor minibatches");
    let mut order: Vec<i64> = (0..samples.len() as i64).collect();
    let steps = (stage.epochs * order.len().div_ceil(stage.batch_size)) as f64;
    let mut best: Option<(f64, Mlp)> = None;
    for number in 1..=stage.epochs {
        order.shuffle(&mut random);
        let (mut sum, mut batches) = (0.0, 0.0);
        for rows in order.chunks(stage.batch_size) {
            interrupt.check()?;
            let rows = Tensor::from_slice(rows);
            let predicted = predictor.expected(&train.observations.index_select(0, &rows));
            let loss = train.loss(&predicted, &rows);
            for parameter in &parameters {
                parameter.shallow_clone().zero_grad();
            }
            loss.backward();
            let progress = adam.steps() as f64 / steps;
            adam.step(&parameters, stage.learning_rate * (progress / WARM_UP).min(1.0) * (1.0 - progress));
            sum += loss.double_value(&[]);
            batches += 1.0;
        }
        let held_out_loss = check.total(|observations| predictor.expected(observations));
        if best.as_ref().is_none_or(|(least, _)| held_out_loss < *least) {
            best = Some((held_out_loss, predictor.to_mlp()));
        }
        // Where all outcomes are the same, there is nothing to explain.
        let explained_variance = if of_constant > 0.0 { 1.0 - held_out_loss / of_constant } else { 0.0 };
        if !observer(&Epoch { number, loss: sum / batches, held_out_loss, explained_variance }) {
            break;
        }
    }
    let (_, mlp) = best.expect("invariant: there is an epoch");
    let stride = held_out.len().div_ceil(PROBES);
    let probes = (0..held_out.len()).step_by(stride).map(|row| held_out.observations.row(row).to_vec());
    Ok(Frozen::new(layout, actions, mlp, probes.collect()))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    /// Two places of a chain and one outcome of trees, at three positions.
    fn samples() -> Samples {
        Samples {
            observations: array![[0.5], [1.0], [-1.0]],
            accepted: array![[1.0, 0.0, 2.0], [0.0, f32::NAN, 0.0], [1.0, f32::NAN, 1.0]],
            places: 2,
            stops: vec![0],
        }
    }

    fn loss(samples: &Samples, predicted: &[f32]) -> f64 {
        let tensors = Tensors::of(samples);
        let columns = samples.accepted.ncols() as i64;
        let predicted = Tensor::from_slice(predicted).view([-1, columns]);
        let rows = Tensor::arange(predicted.size()[0], (Kind::Int64, tch::Device::Cpu));
        tensors.loss(&predicted, &rows).double_value(&[])
    }

    #[test]
    fn the_loss_is_of_what_is_known() {
        let log = |probability: f64| -probability.ln();
        let certain = |odds: f64| 1.0 / (1.0 + (-odds).exp());
        let predicted = [1.0, -2.0, 1.5, 0.5, 9.0, 0.0, 0.0, 7.0, 1.0];
        let known = log(certain(1.0)) + log(certain(2.0)) + log(certain(-0.5)) + log(0.5);
        let expected = known / 3.0 + 0.25 / 3.0;
        assert!((loss(&samples(), &predicted) - expected).abs() < 1e-6);
        // Whatever is said of places that are not known.
        let other = [1.0, -2.0, 1.5, 0.5, -30.0, 0.0, 0.0, 0.0, 1.0];
        assert!((loss(&samples(), &other) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_constant_is_the_mean_and_places_are_log_odds() {
        let constant = constant(&samples());
        // Two of three were right, none of one, and one more of each.
        let log_odds = [(3.0f32 / 2.0).ln(), (1.0f32 / 2.0).ln()];
        for (found, expected) in constant.iter().zip([log_odds[0], log_odds[1], 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{constant:?}");
        }
        // All rows at once or one by one: the same loss.
        let tensors = Tensors::of(&samples());
        let row = Tensor::from_slice(&constant);
        let total = tensors.total(|observations| row.expand([observations.size()[0], -1], true));
        assert!((total - loss(&samples(), &constant.repeat(3))).abs() < 1e-9);
    }
}
