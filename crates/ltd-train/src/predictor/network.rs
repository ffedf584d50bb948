//! The network that predicts accepted draft tokens.

use ltd_policy::{Linear, Mlp};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::ppo::Network;

/// Predicts `[stops, sizes]` expected accepted tokens from an observation; see
/// [`expected_acceptance`](ltd_policy::expected_acceptance) for what its outputs mean.
#[derive(Debug)]
pub(crate) struct Predictor {
    network: Network,
    stops: i64,
    sizes: i64,
}

/// The head starts near its biases, which are the means.
const HEAD_GAIN: f64 = 0.01;
/// Least increment that a bias stands for: the inverse of `softplus` has no value at 0.
const LEAST_INCREMENT: f32 = 1e-4;

impl Predictor {
    /// A network that predicts `mean` (`[stops * sizes]`) whatever it sees, as nearly as its form allows.
    pub(crate) fn new(
        observation_len: usize,
        hidden: &[usize],
        mean: &[f32],
        sizes: usize,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let mut network = Network::new(observation_len, hidden, mean.len(), HEAD_GAIN, random);
        network.set_output_bias(&inverse(mean, sizes));
        Self { network, stops: (mean.len() / sizes) as i64, sizes: sizes as i64 }
    }

    /// Expected accepted tokens, `[batch, stops * sizes]`, of `[batch, observation]`.
    pub(crate) fn expected(&self, observations: &Tensor) -> Tensor {
        let increments = self.network.forward(observations).softplus();
        increments
            .view([-1, self.stops, self.sizes])
            .cumsum(1, Kind::Float)
            .cumsum(2, Kind::Float)
            .flatten(1, 2)
    }

    pub(crate) fn parameters(&self) -> Vec<Tensor> {
        self.network.parameters()
    }

    /// The network as serving evaluates it.
    pub(crate) fn to_mlp(&self) -> Mlp {
        let layers: Vec<Linear> = self.network.to_linears();
        Mlp::new(&layers)
    }
}

/// Outputs that stand for these expectations.
fn inverse(expected: &[f32], sizes: usize) -> Vec<f32> {
    let at = |row: usize, column: usize| expected[row * sizes + column];
    let increment = |row: usize, column: usize| {
        let left = if column > 0 { at(row, column - 1) } else { 0.0 };
        let above = if row > 0 { at(row - 1, column) } else { 0.0 };
        let corner = if row > 0 && column > 0 { at(row - 1, column - 1) } else { 0.0 };
        (at(row, column) - left - above + corner).max(LEAST_INCREMENT)
    };
    (0..expected.len()).map(|index| increment(index / sizes, index % sizes).exp_m1().ln()).collect()
}

#[cfg(test)]
mod tests {
    use ltd_env::stream;
    use ltd_policy::expected_acceptance;

    use super::*;

    #[test]
    fn training_and_serving_predict_the_same() {
        let mut random = stream(5, "test");
        let mean = [0.5, 0.7, 0.6, 1.0, 0.65, 1.2];
        let predictor = Predictor::new(7, &[8], &mean, 2, &mut random);
        let mlp = predictor.to_mlp();
        let mut scratch = mlp.scratch();
        let observation = [0.3f32, -1.0, 2.0, 0.1, 0.0, 0.7, -0.4];
        let mut served = [0.0; 6];
        expected_acceptance(mlp.forward(&observation, &mut scratch), 2, &mut served);
        let trained = predictor.expected(&Tensor::from_slice(&observation).unsqueeze(0)).detach().view(-1);
        let trained: Vec<f32> = trained.try_into().expect("numbers");
        for ((served, trained), mean) in served.iter().zip(&trained).zip(mean) {
            assert!((served - trained).abs() < 1e-5, "{served} {trained}");
            assert!((trained - mean).abs() < 0.1, "begins near the mean: {trained} {mean}");
        }
    }
}
