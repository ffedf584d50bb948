//! Rotary position embedding (half-split convention of Hugging Face's Llama).

use tch::{Device, Kind, Tensor};

/// Cosines and sines of every position, `[positions, head_dim / 2]`, in f32.
pub(crate) struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// The rows of a [`RotaryTable`] for the positions of one forward.
pub(super) struct Rotation {
    /// `[n, head_dim / 2]`.
    pub(super) cos: Vec<f32>,
    /// `[n, head_dim / 2]`.
    pub(super) sin: Vec<f32>,
    half: usize,
}

/// A [`Rotation`] as tensors, each `[n, 1, head_dim]`.
pub(super) struct RotationTensors {
    cos: Tensor,
    /// First half negated: `x * cos + roll(x, half) * signed_sin` rotates.
    signed_sin: Tensor,
    half: i64,
}

impl RotaryTable {
    pub(crate) fn new(positions: i64, head_dim: i64, theta: f64) -> Self {
        // In f32 throughout, as in the training code of these models: at position 1000 more exact angles would
        // already differ from theirs by 1e-4.
        let options = (Kind::Float, Device::Cpu);
        let exponents = Tensor::arange_start_step(0, head_dim, 2, options) / head_dim as f64;
        let frequencies = Tensor::full([1], theta, options).pow(&exponents).reciprocal();
        let angles = Tensor::arange(positions, options).unsqueeze(1) * frequencies.unsqueeze(0);
        let values = |tensor: Tensor| {
            Vec::<f32>::try_from(tensor.view(-1)).expect("invariant: a vector of f32 on the CPU")
        };
        Self { cos: values(angles.cos()), sin: values(angles.sin()), half: head_dim as usize / 2 }
    }

    /// Rotations for some positions.
    pub(super) fn at(&self, positions: &[i64]) -> Rotation {
        let rows = |table: &[f32]| {
            let row = |position: &i64| &table[*position as usize * self.half..][..self.half];
            positions.iter().flat_map(row).copied().collect()
        };
        Rotation { cos: rows(&self.cos), sin: rows(&self.sin), half: self.half }
    }
}

impl Rotation {
    pub(super) fn to_tensors(&self, kind: Kind, device: Device) -> RotationTensors {
        let both = |half: &[f32], first_sign: f64| {
            let half = Tensor::from_slice(half).view([-1, 1, self.half as i64]);
            Tensor::cat(&[&half * first_sign, half.shallow_clone()], 2).to_kind(kind).to_device(device)
        };
        RotationTensors {
            cos: both(&self.cos, 1.0),
            signed_sin: both(&self.sin, -1.0),
            half: self.half as i64,
        }
    }
}

impl RotationTensors {
    /// Rotates each head of `[n, heads, head_dim]`.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        x * &self.cos + x.roll([self.half], [-1]) * &self.signed_sin
    }
}
