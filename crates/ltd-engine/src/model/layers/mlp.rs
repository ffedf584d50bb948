//! Gated MLP.

use tch::Tensor;

use super::host;
use super::linear::Linear;
use super::norm::RmsNorm;
use crate::Result;
use crate::model::config::BlockConfig;
use crate::model::weights::Weights;

/// `down(silu(gate(x)) * up(x))`.
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn load(weights: &mut Weights, name: &str, config: &BlockConfig) -> Result<Self> {
        let BlockConfig { hidden, intermediate, mlp_bias, .. } = *config;
        let mut take =
            |part: &str, shape: [i64; 2]| Linear::load(weights, &format!("{name}.{part}"), shape, mlp_bias);
        Ok(Self {
            gate: take("gate_proj", [intermediate, hidden])?,
            up: take("up_proj", [intermediate, hidden])?,
            down: take("down_proj", [hidden, intermediate])?,
        })
    }

    /// Whether a row's result has the same bits whatever the rows beside it.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        [&self.gate, &self.up, &self.down].iter().all(|linear| linear.is_batch_invariant())
    }

    /// `x + mlp(norm(x))`, `[n, hidden] -> [n, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let Self { gate, up, down } = self;
        if let (Some(gate), Some(up), Some(down)) = (gate.on_host(), up.on_host(), down.on_host()) {
            return Ok(host::mlp([gate, up, down], x, norm.on_host()));
        }
        let normed = norm.forward(x)?;
        down.forward_plus(&up.forward_times(&normed, &gate.forward_silu(&normed)?)?, x)
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
                let mlp = Mlp { gate, up, down };
                mlp.forward(&x, &norm).expect("a result").to_kind(Kind::Float)
            };
            // Weights as they are stored are multiplied by LibTorch.
            let difference = (run(Linear::new) - run(Linear::as_stored)).abs().max().double_value(&[]);
            assert!(difference < tolerance, "{kind:?}: {difference}");
        }
    }
}
