//! A multi-layer perceptron that learns.

use ltd_policy::Linear;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// Gain of the orthogonal initialisation of hidden layers.
const HIDDEN_GAIN: f64 = std::f64::consts::SQRT_2;

/// Linear layers with `ReLU` between them.
#[derive(Debug)]
pub(crate) struct Network {
    layers: Vec<(Tensor, Tensor)>,
}

impl Network {
    /// Orthogonal weights and zero biases, drawn from `random`; `head_gain` scales the last layer's
    /// weights.
    pub(crate) fn new(
        inputs: usize,
        hidden: &[usize],
        outputs: usize,
        head_gain: f64,
        random: &mut ChaCha8Rng,
    ) -> Self {
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

    /// Outputs of `[batch, inputs]`.
    pub(crate) fn forward(&self, inputs: &Tensor) -> Tensor {
        let mut x = inputs.shallow_clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            x = x.linear(weight, Some(bias));
            if index + 1 < self.layers.len() {
                x = x.relu();
            }
        }
        x
    }

    /// All parameters, layer by layer, weight first.
    pub(crate) fn parameters(&self) -> Vec<Tensor> {
        let both = |(weight, bias): &(Tensor, Tensor)| [weight.shallow_clone(), bias.shallow_clone()];
        self.layers.iter().flat_map(both).collect()
    }

    /// Replaces the biases of the last layer.
    ///
    /// # Panics
    /// If there are not as many as outputs.
    pub(crate) fn set_output_bias(&mut self, bias: &[f32]) {
        let (_, last) = self.layers.last_mut().expect("invariant: a network has a layer");
        tch::no_grad(|| last.copy_(&Tensor::from_slice(bias)));
    }

    /// The layers as serving evaluates them.
    pub(crate) fn to_linears(&self) -> Vec<Linear> {
        self.layers.iter().map(|(weight, bias)| linear(weight, bias)).collect()
    }
}

fn linear(weight: &Tensor, bias: &Tensor) -> Linear {
    let values = |tensor: &Tensor| {
        let flat = tensor.detach().contiguous().view(-1);
        Vec::<f32>::try_from(flat).expect("invariant: parameters are f32 on the CPU")
    };
    Linear { weight: values(weight), bias: values(bias), inputs: weight.size()[1] as usize }
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
pub(crate) fn normal(random: &mut ChaCha8Rng) -> f32 {
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
}
