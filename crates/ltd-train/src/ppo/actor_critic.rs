//! The two networks of a learner.

use ltd_policy::{Linear, Mlp};
use ltd_run::config::NetArch;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::perceptron::Perceptron;
use crate::autograd::Network;

/// Gains of the orthogonal initialisation of the heads.
const ACTION_GAIN: f64 = 0.01;
const VALUE_GAIN: f64 = 1.0;

/// A policy and a value function without shared layers; `ReLU`.
#[derive(Debug, Clone, PartialEq)]
pub struct ActorCritic {
    pub(super) policy: Perceptron,
    pub(super) value: Perceptron,
}

impl ActorCritic {
    /// Orthogonal weights and zero biases, drawn from `random`.
    pub fn new(observation_len: usize, n_actions: usize, arch: &NetArch, random: &mut ChaCha8Rng) -> Self {
        let mut network = |hidden: &[usize], outputs, gain| {
            Perceptron::new(&Network::new(observation_len, hidden, outputs, gain, random).to_linears())
        };
        Self { policy: network(&arch.pi, n_actions, ACTION_GAIN), value: network(&arch.vf, 1, VALUE_GAIN) }
    }

    /// Log-probabilities of all actions at observations (`[rows, observation]`, row-major),
    /// `[rows, n_actions]`.
    pub fn log_probs(&self, observations: &[f32]) -> Vec<f32> {
        let mut logits = self.policy.forward(observations);
        logits.chunks_exact_mut(self.policy.outputs()).for_each(log_softmax);
        logits
    }

    /// Values of observations (`[rows, observation]`, row-major), `[rows]`.
    pub fn values(&self, observations: &[f32]) -> Vec<f32> {
        self.value.forward(observations)
    }

    /// Takes over the layers of a policy; says what differs if they have another shape.
    pub(crate) fn copy_policy_from(&mut self, layers: &[Linear]) -> Result<(), String> {
        self.policy.copy_from(layers)
    }

    /// All parameters by name, `policy.0.weight` and so on, policy first.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let mut named = self.policy.named_tensors(|number| parameter("policy", number));
        named.extend(self.value.named_tensors(|number| parameter("value", number)));
        named
    }

    /// Takes over all parameters from tensors of these names; says what differs if they have
    /// another shape.
    pub fn load(&mut self, tensors: &[(String, Tensor)]) -> Result<(), String> {
        self.policy.load(tensors, |number| parameter("policy", number))?;
        self.value.load(tensors, |number| parameter("value", number))
    }

    /// The policy as serving evaluates it.
    pub fn to_mlp(&self) -> Mlp {
        Mlp::new(&self.policy.to_linears())
    }
}

fn parameter(network: &str, number: usize) -> String {
    format!("{network}.{}.{}", number / 2, ["weight", "bias"][number % 2])
}

/// Logits become log-probabilities.
pub(super) fn log_softmax(logits: &mut [f32]) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let log_sum = sum.ln();
    for logit in logits {
        *logit = (*logit - highest) - log_sum;
    }
}

#[cfg(test)]
mod tests {
    use ltd_env::stream;

    use super::*;
    use crate::autograd::normal;

    #[test]
    fn the_served_network_gives_the_trained_networks_log_probs() {
        let mut random = stream(2, "test");
        let arch = NetArch { pi: vec![16, 8], vf: vec![4] };
        let networks = ActorCritic::new(12, 5, &arch, &mut random);
        let mlp = networks.to_mlp();
        let mut scratch = mlp.scratch();
        let observations: Vec<f32> = (0..100 * 12).map(|_| normal(&mut random)).collect();
        let expected = networks.log_probs(&observations);
        for (observation, expected) in observations.chunks(12).zip(expected.chunks(5)) {
            let mut found = mlp.forward(observation, &mut scratch).to_vec();
            log_softmax(&mut found);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5);
            }
        }
    }
}
