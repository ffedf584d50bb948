//! Rotary position embedding (half-split convention of Hugging Face's Llama).

use std::f32::consts::TAU;

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::model::config::{RopeConfig, RopeScaling};

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
    /// The first `positions` positions.
    pub(crate) fn new(positions: i64, head_dim: i64, config: &RopeConfig) -> Self {
        // In f32 throughout, as in the training code of these models: at position 1000 more exact
        // angles would already differ from theirs by 1e-4.
        let options = (Kind::Float, Device::Cpu);
        let exponents = Tensor::arange_start_step(0, head_dim, 2, options) / head_dim as f64;
        let values = |tensor: Tensor| {
            Vec::<f32>::try_from(tensor.view(-1)).expect("invariant: a vector of f32 on the CPU")
        };
        let unscaled = values(Tensor::full([1], config.theta, options).pow(&exponents).reciprocal());
        let frequencies: Vec<f32> =
            unscaled.into_iter().map(|frequency| scaled(frequency, config.scaling)).collect();
        let frequencies = Tensor::from_slice(&frequencies);
        let angles = Tensor::arange(positions, options).unsqueeze(1) * frequencies.unsqueeze(0);
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

/// A frequency (radians per position) under a scaling.
fn scaled(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        // A dynamic one changes nothing within the limit that is checked when an engine is loaded.
        RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
            // How often the wave fits into the context of pre-training.
            let periods = original_positions as f32 / (TAU / frequency);
            let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
            let kept = ((periods - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor as f32 + kept * frequency
        }
    }
}

impl Rotation {
    pub(super) fn to_tensors(&self, kind: Kind, device: Device) -> Result<RotationTensors> {
        let both = |half: &[f32], first_sign: f64| {
            let half = Tensor::from_slice(half).view([-1, 1, self.half as i64]);
            let both = Tensor::cat(&[&half * first_sign, half.shallow_clone()], 2);
            both.f_to_kind(kind)?.f_to_device(device)
        };
        Ok(RotationTensors {
            cos: both(&self.cos, 1.0)?,
            signed_sin: both(&self.sin, -1.0)?,
            half: self.half as i64,
        })
    }
}

impl RotationTensors {
    /// Rotates each head of `[n, heads, head_dim]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let crossed = x.f_roll([self.half], [-1])?.f_mul(&self.signed_sin)?;
        Ok(x.f_mul(&self.cos)?.f_add(&crossed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scales_long_waves_keeps_short_ones_and_blends_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192,
        };
        let wave = |length: f32| TAU / length;
        assert_eq!(scaled(wave(2000.0), scaling), wave(2000.0));
        assert_eq!(scaled(wave(9000.0), scaling), wave(9000.0) / 8.0);
        // Two periods: a third of the way from scaled to kept.
        let blended = scaled(wave(4096.0), scaling) / wave(4096.0);
        assert!((blended - (2.0 / 3.0 / 8.0 + 1.0 / 3.0)).abs() < 1e-5, "{blended}");
        assert_eq!(scaled(0.5, RopeScaling::Linear { factor: 4.0 }), 0.125);
    }
}
