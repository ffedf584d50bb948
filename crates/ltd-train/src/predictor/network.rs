//! The network that predicts accepted draft tokens.

use ltd_policy::{Linear, Mlp};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::autograd::Network;

/// Predicts expected accepted tokens, `[stops * sizes]`, from an observation; of copies, before
/// them, log-odds of a chain's places.
///
/// Nothing makes what it predicts grow with depth and size, though the mean of the truth does:
/// outputs that can only grow overrate what deeper levels add where they add nothing, and the
/// policy drafts too deep.
#[derive(Debug)]
pub(crate) struct Predictor {
    network: Network,
}

/// The head starts near its biases, which are the means.
const HEAD_GAIN: f64 = 0.01;

impl Predictor {
    /// A network that predicts nearly `mean` whatever it sees.
    pub(crate) fn new(
        observation_len: usize,
        hidden: &[usize],
        mean: &[f32],
        random: &mut ChaCha8Rng,
    ) -> Self {
        let mut network = Network::new(observation_len, hidden, mean.len(), HEAD_GAIN, random);
        network.set_output_bias(mean);
        Self { network }
    }

    /// What is predicted of `[batch, observation]`.
    pub(crate) fn expected(&self, observations: &Tensor) -> Tensor {
        self.network.forward(observations)
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

#[cfg(test)]
mod tests {
    use ltd_env::stream;

    use super::*;

    #[test]
    fn training_and_serving_predict_the_same() {
        let mut random = stream(5, "test");
        let mean = [0.5, 0.7, 0.6, 1.0, 0.65, 1.2];
        let predictor = Predictor::new(7, &[8], &mean, &mut random);
        let mlp = predictor.to_mlp();
        let mut scratch = mlp.scratch();
        let observation = [0.3f32, -1.0, 2.0, 0.1, 0.0, 0.7, -0.4];
        let served = mlp.forward(&observation, &mut scratch);
        let trained = predictor.expected(&Tensor::from_slice(&observation).unsqueeze(0)).detach().view(-1);
        let trained: Vec<f32> = trained.try_into().expect("numbers");
        for ((served, trained), mean) in served.iter().zip(&trained).zip(mean) {
            assert!((served - trained).abs() < 1e-5, "{served} {trained}");
            assert!((trained - mean).abs() < 0.1, "begins near the mean: {trained} {mean}");
        }
    }
}
