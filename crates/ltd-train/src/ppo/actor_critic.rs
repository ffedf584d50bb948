//! The two networks of a learner.

use ltd_policy::{Linear, Mlp};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::network::Network;
use ltd_run::config::NetArch;

/// Gains of the orthogonal initialisation of the heads.
const ACTION_GAIN: f64 = 0.01;
const VALUE_GAIN: f64 = 1.0;

/// A policy and a value function without shared layers; `ReLU`.
#[derive(Debug)]
pub struct ActorCritic {
    policy: Network,
    value: Network,
}

/// What the networks say of a batch of steps, each `[batch]` but for the first.
#[derive(Debug)]
pub struct Evaluation {
    /// Log-probabilities of all actions, `[batch, n_actions]`.
    pub action_log_probs: Tensor,
    /// Value of the observation.
    pub values: Tensor,
    /// Log-probability of the action.
    pub log_probs: Tensor,
    /// Entropy of the action distribution.
    pub entropy: Tensor,
}

impl ActorCritic {
    /// Orthogonal weights and zero biases, drawn from `random`.
    pub fn new(observation_len: usize, n_actions: usize, arch: &NetArch, random: &mut ChaCha8Rng) -> Self {
        Self {
            policy: Network::new(observation_len, &arch.pi, n_actions, ACTION_GAIN, random),
            value: Network::new(observation_len, &arch.vf, 1, VALUE_GAIN, random),
        }
    }

    /// Evaluates `observations` (`[batch, observation]`) and `actions` (`[batch]`, int64).
    pub fn evaluate(&self, observations: &Tensor, actions: &Tensor) -> Evaluation {
        let log_probs = self.policy.forward(observations).log_softmax(-1, Kind::Float);
        let entropy = -(log_probs.exp() * &log_probs).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        Evaluation {
            values: self.values(observations),
            log_probs: log_probs.gather(1, &actions.unsqueeze(1), false).squeeze_dim(1),
            entropy,
            action_log_probs: log_probs,
        }
    }

    /// Values of `[batch, observation]`, `[batch]`.
    pub fn values(&self, observations: &Tensor) -> Tensor {
        self.value.forward(observations).squeeze_dim(1)
    }

    /// Takes over the layers of a policy; says what differs if they have another shape.
    pub(crate) fn copy_policy_from(&mut self, layers: &[Linear]) -> Result<(), String> {
        self.policy.copy_from(layers)
    }

    /// All parameters, policy first.
    pub fn parameters(&self) -> Vec<Tensor> {
        let mut parameters = self.policy.parameters();
        parameters.extend(self.value.parameters());
        parameters
    }

    /// Parameters by name.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let mut named = self.policy.named_parameters("policy");
        named.extend(self.value.named_parameters("value"));
        named
    }

    /// The policy as serving evaluates it.
    pub fn to_mlp(&self) -> Mlp {
        Mlp::new(&self.policy.to_linears())
    }
}

#[cfg(test)]
mod tests {
    use ltd_env::stream;

    use super::super::network::normal;
    use super::*;

    #[test]
    fn the_served_network_gives_the_trained_networks_logits() {
        let mut random = stream(2, "test");
        let arch = NetArch { pi: vec![16, 8], vf: vec![4] };
        let networks = ActorCritic::new(12, 5, &arch, &mut random);
        let mlp = networks.to_mlp();
        let mut scratch = mlp.scratch();
        for _ in 0..100 {
            let observation: Vec<f32> = (0..12).map(|_| normal(&mut random)).collect();
            let expected = networks.policy.forward(&Tensor::from_slice(&observation).unsqueeze(0)).view(-1);
            let expected: Vec<f32> = Vec::try_from(expected.detach()).expect("numbers");
            for (found, expected) in mlp.forward(&observation, &mut scratch).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5);
            }
        }
    }
}
