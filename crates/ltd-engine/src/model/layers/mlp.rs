//! Gated MLP.

use tch::{Device, Tensor};

use super::host;
use super::linear::Linear;
use super::norm::RmsNorm;
use crate::model::config::BlockConfig;
use crate::model::weights::Weights;
use crate::{Error, Result};

/// `down(silu(gate(x)) * up(x))`.
pub(crate) struct Mlp {
    inner: Inner,
    down: Linear,
}

/// `silu(gate(x)) * up(x)`.
enum Inner {
    Apart {
        gate: Linear,
        up: Linear,
    },
    /// Gate and up in one weight: a product less, where each is a kernel to launch.
    Together(Linear),
}

impl Mlp {
    pub(crate) fn load(weights: &mut Weights, name: &str, config: &BlockConfig) -> Result<Self> {
        let BlockConfig { hidden, intermediate, mlp_bias, .. } = *config;
        let inputs = [intermediate, hidden];
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{name}.{part}"));
        let inner = if weights.device() == Device::Cpu {
            let mut load = |name: &str| Linear::load(weights, name, inputs, mlp_bias);
            Inner::Apart { gate: load(&gate)?, up: load(&up)? }
        } else {
            let mut both = |kind: &str, shape: &[i64]| {
                let parts = [&gate, &up].map(|name| weights.take(&format!("{name}.{kind}"), shape));
                let [gate, up] = parts;
                Ok::<_, Error>(Tensor::f_cat(&[gate?, up?], 0)?)
            };
            let weight = both("weight", &inputs)?;
            let bias = mlp_bias.then(|| both("bias", &inputs[..1])).transpose()?;
            Inner::Together(Linear::with_bias(weight, bias))
        };
        Ok(Self { inner, down: Linear::load(weights, &down, [hidden, intermediate], mlp_bias)? })
    }

    /// Whether a row's result has the same bits whatever the rows beside it.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        let inner = match &self.inner {
            Inner::Apart { gate, up } => gate.is_batch_invariant() && up.is_batch_invariant(),
            Inner::Together(both) => both.is_batch_invariant(),
        };
        inner && self.down.is_batch_invariant()
    }

    /// `x + mlp(norm(x))`, `[n, hidden] -> [n, hidden]`. It may lie in the memory of `x`, which is
    /// not to be read any more.
    pub(crate) fn forward(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let Self { inner, down } = self;
        if let Inner::Apart { gate, up } = inner
            && let (Some(gate), Some(up), Some(down)) = (gate.on_host(), up.on_host(), down.on_host())
        {
            return Ok(host::mlp([gate, up, down], x, norm.on_host()));
        }
        let normed = norm.forward(x)?;
        let inner = match inner {
            Inner::Apart { gate, up } => up.forward_times(&normed, &gate.forward_silu(&normed)?)?,
            Inner::Together(both) => {
                let halves = both.forward(&normed)?.f_chunk(2, 1)?;
                halves[0].f_silu()?.f_mul_(&halves[1])?
            }
        };
        down.forward_plus(&inner, x)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn one_operation_equals_its_parts() {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (x, norm) = (random(&[21, 96]), RmsNorm::new(random(&[96]), 1e-5));
            let weights = [[200, 96], [200, 96], [96, 200]].map(|shape| random(&shape) * 0.1);
            let run = |linear: fn(Tensor) -> Linear| {
                let [gate, up, down] = weights.each_ref().map(|weight| linear(weight.shallow_clone()));
                let mlp = Mlp { inner: Inner::Apart { gate, up }, down };
                mlp.forward(&x.copy(), &norm).expect("a result").to_kind(Kind::Float)
            };
            // Weights as they are stored are multiplied by LibTorch.
            let difference = (run(Linear::new) - run(Linear::as_stored)).abs().max().double_value(&[]);
            assert!(difference < tolerance, "{kind:?}: {difference}");
        }
    }
}
