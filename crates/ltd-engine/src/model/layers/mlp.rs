//! Gated MLP.

use tch::Tensor;

use crate::Result;
use crate::model::config::BlockConfig;
use crate::model::weights::Weights;

const COLUMNS: i64 = 1;

/// `down(silu(gate(x)) * up(x))`, gate and up packed in one product.
pub(crate) struct Mlp {
    gate_up: Tensor,
    down: Tensor,
    intermediate: i64,
}

impl Mlp {
    pub(crate) fn load(weights: &mut Weights, name: &str, config: &BlockConfig) -> Result<Self> {
        let BlockConfig { hidden, intermediate, .. } = *config;
        let gate = weights.take(&format!("{name}.gate_proj.weight"), &[intermediate, hidden])?;
        let up = weights.take(&format!("{name}.up_proj.weight"), &[intermediate, hidden])?;
        let down = weights.take(&format!("{name}.down_proj.weight"), &[hidden, intermediate])?;
        Ok(Self { gate_up: Tensor::f_cat(&[gate, up], 0)?, down, intermediate })
    }

    /// `[n, hidden] -> [n, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let gate_up = x.linear(&self.gate_up, None::<&Tensor>);
        let gate = gate_up.narrow(COLUMNS, 0, self.intermediate);
        let up = gate_up.narrow(COLUMNS, self.intermediate, self.intermediate);
        (gate.silu() * up).linear(&self.down, None::<&Tensor>)
    }
}
