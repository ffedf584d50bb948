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
    pub(crate) fn forward(&self, x: &Tensor, norm: &RmsNorm) -> Tensor {
        let Self { gate, up, down } = self;
        if let (Some(gate), Some(up), Some(down)) = (gate.on_host(), up.on_host(), down.on_host()) {
            return host::mlp(gate, up, down, x, norm.on_host());
        }
        let normed = norm.forward(x);
        down.forward_plus(&up.forward_times(&normed, &gate.forward_silu(&normed)), x)
    }
}
