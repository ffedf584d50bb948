//! Devices and number types: from configuration to LibTorch.

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind};

use crate::{Error, Result, cuda};

/// Number type of weights, caches and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats: bit-exact comparisons with plain decoding hold here.
    F32,
    /// 16-bit floats with the range of `f32`.
    Bf16,
    /// 16-bit floats with more digits and a small range.
    F16,
}

/// Number type as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DtypeSetting {
    /// On a CPU the fastest, by measurement, of those that keep the checkpoint's meaning; on CUDA
    /// the checkpoint's own.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of `f32`.
    Bf16,
    /// 16-bit floats with more digits and a small range.
    F16,
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl From<Dtype> for DtypeSetting {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
        }
    }
}

impl std::str::FromStr for DtypeSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            other => Err(format!("unknown dtype `{other}`; expected auto, f32, bf16 or f16")),
        }
    }
}

impl Dtype {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }

    /// Types in which a checkpoint stored as `stored` computes the same function, and wider ones:
    /// its own comes first. (`bf16` weights do not fit the range of `f16`.)
    pub(crate) fn meaning_preserving(stored: Kind) -> Vec<Self> {
        match stored {
            Kind::BFloat16 => vec![Self::Bf16, Self::F32],
            Kind::Half => vec![Self::F16, Self::F32],
            _ => vec![Self::F32],
        }
    }
}

impl DtypeSetting {
    /// This setting, or where it is `auto`, the type that a policy package was made for: its
    /// decisions weigh what cycles cost in that type.
    pub fn or_of_package(self, dtype: &str) -> Result<Self, String> {
        match self {
            Self::Auto => dtype.parse(),
            named => Ok(named),
        }
    }

    /// The type that was asked for by name, if one was.
    pub(crate) fn fixed(self) -> Option<Dtype> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Dtype::F32),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::F16 => Some(Dtype::F16),
        }
    }
}

/// The number of a CUDA device, none for `cpu`.
///
/// # Errors
/// If it is the name of no device.
pub(crate) fn cuda_index(name: &str) -> Result<Option<usize>, String> {
    match name {
        "cpu" => Ok(None),
        "cuda" => Ok(Some(0)),
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => Ok(Some(index)),
            None => Err("expected cpu, cuda or cuda:N, or auto alone for several".to_owned()),
        },
    }
}

/// Resolves `cpu`, `cuda` or `cuda:N`; loads LibTorch's CUDA half first, which no binary links.
pub(crate) fn resolve(name: &str) -> Result<Device> {
    let error = |problem: String| Error::Device { device: name.to_owned(), problem };
    let Some(index) = cuda_index(name).map_err(error)? else { return Ok(Device::Cpu) };
    let count = cuda::device_count().map_err(error)?;
    if index >= count {
        return Err(error(format!("this machine has {count} CUDA device(s), numbered from 0")));
    }
    Ok(Device::Cuda(index))
}

/// Waits until the device has finished what was asked of it.
pub(crate) fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
