//! Rotary position embedding (half-split convention of Hugging Face's Llama).

use std::f32::consts::TAU;

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::model::config::{RopeConfig, RopeScaling};
use crate::transfer::{Upload, Uploaded};

const ROWS: i64 = 0;
const COLUMNS: i64 = 1;

/// Cosines and sines of every position, `[positions, head_dim / 2]`, in f32.
pub(crate) struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// The same on devices that LibTorch's kernels run on, `[positions + 1, 2 * head_dim]`: cosines
    /// and signed sines. The last row leaves a head as it is.
    tables: Vec<Tensor>,
}

/// The rows of a [`RotaryTable`] for the positions of one forward.
pub(super) struct Rotation {
    /// `[n, head_dim / 2]`.
    pub(super) cos: Vec<f32>,
    /// `[n, head_dim / 2]`.
    pub(super) sin: Vec<f32>,
}

/// A [`Rotation`] of heads in groups, as tensors: each `[n, groups, 1, head_dim]`.
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
        let (cos, sin) = (values(angles.cos()), values(angles.sin()));
        Self { cos, sin, half: head_dim as usize / 2, tables: Vec::new() }
    }

    /// With a table on each of some devices whose forwards are of a number type, for
    /// [`RotaryTable::prepare`].
    pub(crate) fn on_devices(
        mut self,
        devices: impl IntoIterator<Item = Device>,
        kind: Kind,
    ) -> Result<Self> {
        let mut devices = devices.into_iter().peekable();
        if devices.peek().is_none() {
            return Ok(self);
        }
        let half = self.half as i64;
        let [cos, sin] = [&self.cos, &self.sin].map(|table| Tensor::from_slice(table).view([-1, half]));
        let rows = Tensor::f_cat(&[&cos, &cos, &-&sin, &sin], COLUMNS)?;
        let still = Tensor::from_slice(&[1.0_f32, 0.0]).repeat_interleave_self_int(2 * half, None, None);
        let table = Tensor::f_cat(&[rows, still.unsqueeze(0)], ROWS)?.f_to_kind(kind)?;
        for device in devices {
            self.tables.push(table.f_to_device(device)?);
        }
        Ok(self)
    }

    /// Rotations for some positions.
    pub(super) fn at(&self, positions: &[i64]) -> Rotation {
        let rows = |table: &[f32]| {
            let row = |position: &i64| &table[*position as usize * self.half..][..self.half];
            positions.iter().flat_map(row).copied().collect()
        };
        Rotation { cos: rows(&self.cos), sin: rows(&self.sin) }
    }

    /// Gets ready rotations for some positions on a device that there is a table on: of the first
    /// `rotated` of so many groups of heads. The others stay as they are.
    pub(super) fn prepare(
        &self,
        upload: &mut Upload,
        positions: &[i64],
        device: Device,
        [rotated, groups]: [usize; 2],
    ) -> impl FnOnce(&Uploaded) -> Result<RotationTensors> + use<> {
        let table = self.tables.iter().find(|table| table.device() == device);
        let table = table.expect("invariant: there is a table on each device of the model").shallow_clone();
        let (half, still) = (self.half as i64, table.size()[0] - 1);
        assert!(positions.iter().all(|&position| position < still), "positions {positions:?} of {still}");
        let row =
            |position: i64| (0..groups).map(move |group| if group < rotated { position } else { still });
        let rows = upload.add_indices(positions.iter().copied().flat_map(row));
        move |uploaded: &Uploaded| {
            let rows = table.f_index_select(ROWS, &uploaded.get(rows))?;
            let rows = rows.f_view([-1, groups as i64, 1, 4 * half])?;
            Ok(RotationTensors {
                cos: rows.narrow(3, 0, 2 * half),
                signed_sin: rows.narrow(3, 2 * half, 2 * half),
                half,
            })
        }
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

impl RotationTensors {
    /// Rotates the heads of `[n, groups, heads of a group, head_dim]` into a tensor of that shape.
    pub(super) fn apply(&self, x: &Tensor, rotated: &Tensor) -> Result<()> {
        let crossed = x.f_roll([self.half], [-1])?;
        let _ = x.f_mul_out(rotated, &self.cos)?.f_addcmul_(&crossed, &self.signed_sin)?;
        Ok(())
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
