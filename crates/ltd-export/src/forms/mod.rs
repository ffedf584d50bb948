//! The forms of a network that others load, each written, read back and compared.

mod onnx;
mod pickle;
pub(crate) mod sb3;
mod torchscript;

use std::path::Path;

use clap::ValueEnum;
use ltd_policy::{Frozen, Outputs, official};

use crate::{Error, Result};

/// A form of a package's networks besides the safetensors files, which it always has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// `TorchScript`, for LibTorch and PyTorch
    Torchscript,
    /// Open Neural Network Exchange, for ONNX Runtime and others
    Onnx,
    /// An archive that stable-baselines3 loads as PPO, of each policy
    Sb3,
    /// The same, of each policy that the published LTD code can run as it was trained
    Sb3Official,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Torchscript, Self::Onnx, Self::Sb3, Self::Sb3Official];

    /// What it is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Torchscript => "TorchScript form",
            Self::Onnx => "ONNX form",
            Self::Sb3 => "SB3 form",
            Self::Sb3Official => "SB3 form for the published code",
        }
    }

    /// How its files end, behind the name of the network.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Torchscript => "torchscript.pt",
            Self::Onnx => "onnx",
            Self::Sb3 => "sb3.zip",
            Self::Sb3Official => "official.zip",
        }
    }

    /// Why a network cannot have it, if it cannot.
    pub(crate) fn problem<O: Outputs>(self, network: &Frozen<O>) -> Option<String> {
        if !matches!(self, Self::Sb3 | Self::Sb3Official) {
            return None;
        }
        match network.actions().as_policy() {
            None => {
                let kind = network.actions().kind_name();
                Some(format!(
                    "{kind} predicts what will be accepted, and stable-baselines3 saves nothing but policies"
                ))
            }
            Some(actions) if self == Self::Sb3Official => official::why_not(network.layout(), actions),
            Some(_) => None,
        }
    }

    /// Writes a network.
    pub(crate) fn write<O: Outputs>(self, network: &Frozen<O>, path: &Path) -> Result<()> {
        match self {
            Self::Torchscript => torchscript::write(network.mlp(), path),
            Self::Onnx => onnx::write(network.mlp(), &properties(network), path),
            Self::Sb3 | Self::Sb3Official => sb3::write(network.mlp(), path),
        }
    }

    /// The logits that the file of a network gives to observations.
    pub(crate) fn logits(self, path: &Path, observations: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Torchscript => torchscript::logits(path, observations),
            Self::Onnx => onnx::logits(path, observations),
            Self::Sb3 | Self::Sb3Official => sb3::logits(path, observations),
        }
    }
}

/// What a reader must know of a network besides its numbers.
fn properties<O: Outputs>(network: &Frozen<O>) -> Vec<(&'static str, String)> {
    let json = |value: serde_json::Result<String>| value.expect("invariant: plain data");
    vec![
        ("ltd.kind", network.actions().kind_name()),
        ("ltd.layout", json(serde_json::to_string(network.layout()))),
        ("ltd.actions", json(serde_json::to_string(network.actions()))),
    ]
}

/// A file that was written just now cannot be read back.
fn unreadable(path: &Path, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Io { path: path.to_owned(), source: std::io::Error::new(std::io::ErrorKind::InvalidData, problem) }
}
