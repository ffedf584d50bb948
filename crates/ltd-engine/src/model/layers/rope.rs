//! Rotary position embedding (half-split convention of Hugging Face's Llama).

use tch::{Device, Kind, Tensor};

const POSITIONS: i64 = 0;

/// Cosines and signed sines of every position, `[positions, 1, head_dim]`.
pub(crate) struct RotaryTable {
    cos: Tensor,
    /// First half negated: `x * cos + roll(x, half) * signed_sin` rotates.
    signed_sin: Tensor,
}

/// The rows of a [`RotaryTable`] for the positions of one forward, `[n, 1, head_dim]`.
pub(crate) struct Rotation {
    cos: Tensor,
    signed_sin: Tensor,
    half: i64,
}

impl RotaryTable {
    pub(crate) fn new(positions: i64, head_dim: i64, theta: f64, kind: Kind, device: Device) -> Self {
        // In f32 throughout, as in the training code of these models: at position 1000 more exact angles would
        // already differ from theirs by 1e-4.
        let options = (Kind::Float, Device::Cpu);
        let exponents = Tensor::arange_start_step(0, head_dim, 2, options) / head_dim as f64;
        let frequencies = Tensor::full([1], theta, options).pow(&exponents).reciprocal();
        let angles = Tensor::arange(positions, options).unsqueeze(1) * frequencies.unsqueeze(0);
        let expand = |half: &Tensor, first_sign: f64| {
            Tensor::cat(&[half * first_sign, half.copy()], 1).unsqueeze(1).to_kind(kind).to_device(device)
        };
        Self { cos: expand(&angles.cos(), 1.0), signed_sin: expand(&angles.sin(), -1.0) }
    }

    /// Rotations for `positions` (`[n]`, int64, on the table's device).
    pub(crate) fn at(&self, positions: &Tensor) -> Rotation {
        let cos = self.cos.index_select(POSITIONS, positions);
        let half = cos.size()[2] / 2;
        Rotation { cos, signed_sin: self.signed_sin.index_select(POSITIONS, positions), half }
    }
}

impl Rotation {
    /// Rotates each head of `[n, heads, head_dim]`.
    pub(crate) fn apply(&self, x: &Tensor) -> Tensor {
        x * &self.cos + x.roll([self.half], [-1]) * &self.signed_sin
    }
}
