//! Fitting the predictor.

use ltd_env::{Interrupt, stream};
use ltd_policy::{Frozen, Mlp, ObservationLayout, Outputs};
use ndarray::Axis;
use rand::seq::SliceRandom;
use tch::{Kind, Tensor};

use super::network::Predictor;
use super::samples::Samples;
use crate::Result;
use crate::ppo::Adam;
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
    /// Mean squared error while training.
    pub(crate) loss: f64,
    /// Mean squared error on the held-out positions.
    pub(crate) held_out_loss: f64,
    /// Share of the variance of the held-out outcomes that is predicted.
    pub(crate) explained_variance: f64,
}

/// Samples as tensors.
struct Tensors {
    /// `[rows, observation]`.
    observations: Tensor,
    /// `[positions, stops * sizes]`.
    accepted: Tensor,
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
        let stops = samples.stops.len() as i64;
        let sizes = samples.accepted.ncols() as i64 / stops;
        let ahead = Tensor::ones([stops, stops], (Kind::Float, tch::Device::Cpu)).triu(0);
        Self {
            observations: tensor(&samples.observations),
            accepted: tensor(&samples.accepted),
            stops,
            ahead: ahead.repeat_interleave_self_int(sizes, 1, None),
        }
    }

    /// Squared errors of some rows (`[batch, stops * sizes]`, 0 where nothing is ahead) and how
    /// many there are.
    fn errors(&self, predictor: &Predictor, rows: &Tensor) -> (Tensor, f64) {
        let expected = predictor.expected(&self.observations.index_select(0, rows));
        let accepted = self.accepted.index_select(0, &rows.divide_scalar_mode(self.stops, "floor"));
        let ahead = self.ahead.index_select(0, &rows.remainder(self.stops));
        let count = ahead.sum(Kind::Float).double_value(&[]);
        ((expected - accepted).square() * ahead, count)
    }

    /// Mean squared error over all rows.
    fn loss(&self, predictor: &Predictor) -> f64 {
        tch::no_grad(|| {
            let all = Tensor::arange(self.observations.size()[0], (Kind::Int64, tch::Device::Cpu));
            let (mut sum, mut count) = (0.0, 0.0);
            for rows in all.split(EVALUATION_ROWS, 0) {
                let (errors, number) = self.errors(predictor, &rows);
                sum += errors.sum(Kind::Double).double_value(&[]);
                count += number;
            }
            sum / count
        })
    }

    /// Mean squared error of the constant `mean`.
    fn variance(&self, mean: &[f32]) -> f64 {
        let weights = self.ahead.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
        let squares = (&self.accepted - Tensor::from_slice(mean)).square() * &weights;
        let count = weights.sum(Kind::Float).double_value(&[]) * self.accepted.size()[0] as f64;
        squares.sum(Kind::Double).double_value(&[]) / count
    }
}

/// Fits a predictor to `samples` by least squares, and keeps it as it was after the epoch with the
/// least error on `held_out`. Squared error makes the prediction an expectation, whatever the
/// distribution. `observer` sees each epoch and says whether to go on.
pub(crate) fn train<O: Outputs>(
    samples: &Samples,
    held_out: &Samples,
    (layout, actions): (ObservationLayout, O),
    stage: &PredictorStage,
    seed: u64,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(&Epoch) -> bool,
) -> Result<Frozen<O>> {
    let mean = samples.accepted.mean_axis(Axis(0)).expect("invariant: there are positions").to_vec();
    let mut init = stream(seed, "predictor init");
    let predictor = Predictor::new(layout.len(), &stage.net_arch, &mean, &mut init);
    let (train, check) = (Tensors::of(samples), Tensors::of(held_out));
    let variance = check.variance(&mean);
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
            let (errors, count) = train.errors(&predictor, &Tensor::from_slice(rows));
            let loss = errors.sum(Kind::Float) / count;
            for parameter in &parameters {
                parameter.shallow_clone().zero_grad();
            }
            loss.backward();
            let progress = adam.steps() as f64 / steps;
            adam.step(&parameters, stage.learning_rate * (progress / WARM_UP).min(1.0) * (1.0 - progress));
            sum += loss.double_value(&[]);
            batches += 1.0;
        }
        let held_out_loss = check.loss(&predictor);
        if best.as_ref().is_none_or(|(least, _)| held_out_loss < *least) {
            best = Some((held_out_loss, predictor.to_mlp()));
        }
        // Where all outcomes are the same, there is nothing to explain.
        let explained_variance = if variance > 0.0 { 1.0 - held_out_loss / variance } else { 0.0 };
        if !observer(&Epoch { number, loss: sum / batches, held_out_loss, explained_variance }) {
            break;
        }
    }
    let (_, mlp) = best.expect("invariant: there is an epoch");
    let stride = held_out.len().div_ceil(PROBES);
    let probes = (0..held_out.len()).step_by(stride).map(|row| held_out.observations.row(row).to_vec());
    Ok(Frozen::new(layout, actions, mlp, probes.collect()))
}
