//! The two networks of a learner.

use ltd_policy::{Linear, Mlp};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::config::NetArch;

/// Gains of the orthogonal initialisation: hidden layers, action head, value head.
const HIDDEN_GAIN: f64 = std::f64::consts::SQRT_2;
const ACTION_GAIN: f64 = 0.01;
const VALUE_GAIN: f64 = 1.0;

/// A policy and a value function without shared layers; `ReLU`.
#[derive(Debug)]
pub struct ActorCritic {
    policy: Network,
    value: Network,
}

#[derive(Debug)]
struct Network {
    layers: Vec<(Tensor, Tensor)>,
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

    /// All parameters, policy first.
    pub fn parameters(&self) -> Vec<Tensor> {
        let layers = self.policy.layers.iter().chain(&self.value.layers);
        layers.flat_map(|(weight, bias)| [weight.shallow_clone(), bias.shallow_clone()]).collect()
    }

    /// Parameters by name.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let name = |network: &'static str, layers: &[(Tensor, Tensor)]| {
            let named = layers.iter().enumerate().flat_map(move |(index, (weight, bias))| {
                [
                    (format!("{network}.{index}.weight"), weight.shallow_clone()),
                    (format!("{network}.{index}.bias"), bias.shallow_clone()),
                ]
            });
            named.collect::<Vec<_>>()
        };
        let mut named = name("policy", &self.policy.layers);
        named.extend(name("value", &self.value.layers));
        named
    }

    /// The policy as serving evaluates it.
    pub fn to_mlp(&self) -> Mlp {
        let layers: Vec<Linear> =
            self.policy.layers.iter().map(|(weight, bias)| linear(weight, bias)).collect();
        Mlp::new(&layers)
    }
}

fn linear(weight: &Tensor, bias: &Tensor) -> Linear {
    let values = |tensor: &Tensor| {
        let flat = tensor.detach().contiguous().view(-1);
        Vec::<f32>::try_from(flat).expect("invariant: parameters are f32 on the CPU")
    };
    Linear { weight: values(weight), bias: values(bias), inputs: weight.size()[1] as usize }
}

impl Network {
    fn new(inputs: usize, hidden: &[usize], outputs: usize, head_gain: f64, random: &mut ChaCha8Rng) -> Self {
        let widths: Vec<usize> =
            [inputs].into_iter().chain(hidden.iter().copied()).chain([outputs]).collect();
        let last = widths.len() - 2;
        let layers = widths.windows(2).enumerate().map(|(index, pair)| {
            let gain = if index == last { head_gain } else { HIDDEN_GAIN };
            let weight = orthogonal(pair[1], pair[0], gain, random).set_requires_grad(true);
            let bias = Tensor::zeros([pair[1] as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            (weight, bias)
        });
        Self { layers: layers.collect() }
    }

    fn forward(&self, observations: &Tensor) -> Tensor {
        let mut x = observations.shallow_clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            x = x.linear(weight, Some(bias));
            if index + 1 < self.layers.len() {
                x = x.relu();
            }
        }
        x
    }
}

/// A `[rows, columns]` matrix with orthonormal rows or columns, times `gain` (arXiv 1312.6120).
fn orthogonal(rows: usize, columns: usize, gain: f64, random: &mut ChaCha8Rng) -> Tensor {
    let (tall, narrow) = (rows.max(columns), rows.min(columns));
    let values: Vec<f32> = (0..tall * narrow).map(|_| normal(random)).collect();
    let gaussian = Tensor::from_slice(&values).view([tall as i64, narrow as i64]);
    let (q, r) = Tensor::linalg_qr(&gaussian, "reduced");
    // Signs of R's diagonal make the distribution uniform.
    let q = q * r.diagonal(0, 0, 1).sign();
    let q = if rows < columns { q.transpose(0, 1) } else { q };
    (q * gain).contiguous()
}

/// A standard normal number (Box-Muller).
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

#[cfg(test)]
mod tests {
    use ltd_env::stream;

    use super::*;

    #[test]
    fn initial_weights_are_orthogonal() {
        for (rows, columns) in [(8, 20), (20, 8), (5, 5)] {
            let weight = orthogonal(rows, columns, 2.0, &mut stream(1, "test"));
            let product = if rows < columns { weight.mm(&weight.tr()) } else { weight.tr().mm(&weight) };
            let expected = Tensor::eye(rows.min(columns) as i64, (Kind::Float, Device::Cpu)) * 4.0;
            assert!((product - expected).abs().max().double_value(&[]) < 1e-4);
        }
    }

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
