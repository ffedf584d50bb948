//! Root-mean-square norm.

use tch::Tensor;

use super::host;
use crate::Result;
use crate::model::weights::Weights;

/// `x / rms(x) * weight`.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    #[cfg(test)]
    pub(super) fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    pub(crate) fn load(weights: &mut Weights, name: &str, width: i64, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.take(&format!("{name}.weight"), &[width])?, eps })
    }

    pub(super) fn on_host(&self) -> host::RowNorm<'_> {
        host::RowNorm { weight: &self.weight, eps: self.eps as f32 }
    }

    /// `[width]`.
    pub(super) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `x / rms(x)`, with LibTorch's kernel.
    pub(super) fn forward_unweighted(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_rms_norm(self.weight.size(), None::<&Tensor>, self.eps)?)
    }

    /// `[.., width] -> [.., width]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(if host::supports(x.device(), x.kind()) {
            host::rms_norm(x, self.on_host())
        } else {
            x.f_rms_norm(self.weight.size(), Some(&self.weight), self.eps)?
        })
    }
}
