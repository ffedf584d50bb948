//! A policy as `TorchScript`, for servers that run LibTorch or PyTorch.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use ltd_policy::{Activation, Linear, Mlp, write_atomically};
use tch::{CModule, Kind, Tensor};

use crate::{Error, Result};

const ROWS: i64 = 0;

/// Writes a module whose `forward` maps observations `[n, observation]` to logits `[n, actions]`.
pub(super) fn write(mlp: &Mlp, path: &Path) -> Result<()> {
    let layers: Vec<(Tensor, Tensor)> = mlp
        .to_layers()
        .into_iter()
        .map(|Linear { weight, bias, inputs }| {
            (Tensor::from_slice(&weight).view([-1, inputs as i64]), Tensor::from_slice(&bias))
        })
        .collect();
    // Two rows: a single one could be specialised on.
    let example = Tensor::zeros([2, mlp.inputs() as i64], (Kind::Float, tch::Device::Cpu));
    let mut forward = |inputs: &[Tensor]| {
        let mut x = inputs[0].shallow_clone();
        for (index, (weight, bias)) in layers.iter().enumerate() {
            x = x.linear(weight, Some(bias));
            if index + 1 < layers.len() {
                x = match mlp.activation() {
                    Activation::Relu => x.relu(),
                    Activation::Tanh => x.tanh(),
                };
            }
        }
        vec![x]
    };
    let module = tch::no_grad(|| CModule::create_by_tracing("Policy", "forward", &[example], &mut forward))?;
    Ok(write_atomically(path, &serialize(&module, path)?)?)
}

/// What the file `path` of a module has to hold. LibTorch ends the process where a disk is full, so
/// that it writes into a pipe: `path` leads there meanwhile, for the name is part of the content.
fn serialize(module: &CModule, path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let (mut reader, writer) = std::io::pipe().map_err(io)?;
    let open_files = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    symlink(format!("{open_files}/{}", writer.as_raw_fd()), path).map_err(io)?;
    let (saved, bytes) = std::thread::scope(|scope| {
        let bytes = scope.spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let saved = module.save(path);
        // The pipe ends where nobody can write to it any more.
        drop(writer);
        (saved, bytes.join().expect("invariant: reading does not panic"))
    });
    saved?;
    bytes.map_err(io)
}

/// The logits that a written module gives to observations.
pub(super) fn logits(path: &Path, observations: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    let module = CModule::load(path)?;
    let rows: Vec<Tensor> = observations.iter().map(|row| Tensor::from_slice(row)).collect();
    let logits = module.forward_ts(&[Tensor::stack(&rows, ROWS)])?;
    Ok(Vec::<Vec<f32>>::try_from(logits)?)
}
