//! Reads a policy from an archive of stable-baselines3. Nothing of its pickles is executed: weights
//! are read by the engine's reader of PyTorch files, and the rest from what the archive says in
//! JSON.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ltd_engine::TorchArchive;
use ltd_policy::{Activation, Linear, MAX_LAYERS, Mlp};
use serde_json::Value;
use zip::{CompressionMethod, ZipArchive};

use super::{CLASS_OF_RELU, CLASS_OF_TANH, DATA, POLICY, VERSION_FILE, hidden_layer};
use crate::{Error, Result};

/// Parameters of a model besides its weights take some ten thousand bytes.
const LARGEST_DATA: u64 = 16 << 20;
/// Weights of the published policies take some million bytes.
const LARGEST_POLICY: u64 = 256 << 20;
const LONGEST_VERSION: u64 = 64;
/// What stable-baselines3 saves of the critic, which no package keeps.
const CRITIC: [&str; 2] = ["mlp_extractor.value_net.", "value_net."];

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The policy's network.
    pub(crate) mlp: Mlp,
    /// The version of stable-baselines3 that saved it, if the archive says so.
    pub(crate) version: Option<String>,
    /// The seed of the training, if there was one.
    pub(crate) seed: Option<u64>,
}

/// Reads the policy that stable-baselines3 saved.
pub(crate) fn read(path: &Path) -> Result<Saved> {
    let refuse = |problem: String| Error::Archive { path: path.to_owned(), problem };
    let file = File::open(path).map_err(ltd_policy::Error::io(path))?;
    let mut archive = ZipArchive::new(file).map_err(|error| refuse(format!("not a zip archive: {error}")))?;
    let text = entry(&mut archive, DATA, LARGEST_DATA).map_err(refuse)?;
    let data: Value = serde_json::from_slice(&text).map_err(|error| refuse(format!("{DATA}: {error}")))?;
    let activation = activation(&data).map_err(|problem| refuse(format!("{DATA}: {problem}")))?;
    let version = entry(&mut archive, VERSION_FILE, LONGEST_VERSION).ok();
    let version = version.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());

    let weights = entry(&mut archive, POLICY, LARGEST_POLICY).map_err(refuse)?;
    let bytes = weights.len() as u64;
    let tensors = TorchArchive::of_bytes(weights, &path.join(POLICY))?;
    let layers = layers(&tensors, bytes).map_err(|problem| match problem {
        Problem::Other(problem) => refuse(format!("{POLICY}: {problem}")),
        Problem::Engine(error) => Error::Engine(error),
    })?;
    let mlp = Mlp::with_activation(&layers, activation);
    check_spaces(&data, &mlp).map_err(|problem| refuse(format!("{DATA}: {problem}")))?;
    let seed = data.get("seed").and_then(Value::as_u64);
    Ok(Saved { mlp, version, seed })
}

/// An entry that is stored as it is.
fn entry(archive: &mut ZipArchive<File>, name: &str, largest: u64) -> Result<Vec<u8>, String> {
    let broken = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    // First without decompression, of which this program knows none.
    let index =
        (0..archive.len()).find(|&index| archive.by_index_raw(index).is_ok_and(|found| found.name() == name));
    let index = index.ok_or_else(|| format!("has no `{name}`, as all archives of stable-baselines3 have"))?;
    let found = archive.by_index_raw(index).map_err(|error| broken(&error))?;
    if found.compression() != CompressionMethod::Stored {
        return Err(format!("{name} is compressed, expected it as it is, as stable-baselines3 stores it"));
    }
    if found.size() > largest {
        return Err(format!("{name} has {} bytes, expected at most {largest}", found.size()));
    }
    drop(found);
    let mut bytes = Vec::new();
    let found = archive.by_index(index).map_err(|error| broken(&error))?;
    // What is stored is no longer than the file, whatever the archive says.
    found.take(largest).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    Ok(bytes)
}

/// What stands between the layers. Only what is not the default, the hyperbolic tangent, is among
/// the arguments of the policy, which are JSON, or a pickle and beside it the same in words.
fn activation(data: &Value) -> Result<Activation, String> {
    let arguments = match data.get("policy_kwargs") {
        Some(Value::Object(arguments)) => arguments,
        Some(other) => return Err(format!("policy_kwargs is {other}, expected an object")),
        None => return Err("has no policy_kwargs, as those of all policies have".to_owned()),
    };
    match arguments.get("activation_fn") {
        Some(Value::String(class)) if class == CLASS_OF_RELU => Ok(Activation::Relu),
        Some(Value::String(class)) if class == CLASS_OF_TANH => Ok(Activation::Tanh),
        Some(other) => Err(format!("activation_fn is {other}, expected {CLASS_OF_RELU} or {CLASS_OF_TANH}")),
        None if !arguments.is_empty() && arguments.keys().all(|key| key.starts_with(':')) => {
            Err("policy_kwargs is a pickle alone, expected the same in words beside it".to_owned())
        }
        None => Ok(Activation::Tanh),
    }
}

/// Fails unless the archive has both spaces. They are pickles, which nothing here reads. Where
/// their size stands beside them in words, it must be the network's.
fn check_spaces(data: &Value, mlp: &Mlp) -> Result<(), String> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    for (name, key, expected) in
        [("observation_space", "_shape", mlp.inputs()), ("action_space", "n", mlp.outputs())]
    {
        let space = match data.get(name) {
            Some(Value::Object(space)) => space,
            Some(other) => return Err(format!("{name} is {other}, expected an object")),
            None => return Err(format!("has no {name}, as those of all policies have")),
        };
        let Some(told) = space.get(key) else { continue };
        let size = match told {
            Value::Array(sizes) if sizes.len() == 1 => &sizes[0],
            other => other,
        };
        if number(size) != Some(expected as u64) {
            return Err(format!("{name} has {key} {told}, expected {expected} as its network"));
        }
    }
    Ok(())
}

enum Problem {
    Engine(ltd_engine::Error),
    Other(String),
}

impl From<ltd_engine::Error> for Problem {
    fn from(error: ltd_engine::Error) -> Self {
        Self::Engine(error)
    }
}

/// The layers of the policy, in their order. `bytes` is how large the file is.
fn layers(tensors: &TorchArchive, bytes: u64) -> Result<Vec<Linear>, Problem> {
    let names = tensors.names();
    let hidden =
        (0..MAX_LAYERS).take_while(|&index| names.contains(&format!("{}.weight", hidden_layer(index))));
    let modules: Vec<String> = hidden.map(hidden_layer).chain(["action_net".to_owned()]).collect();
    let known = |name: &String| {
        CRITIC.iter().any(|critic| name.starts_with(critic))
            || modules
                .iter()
                .any(|module| [".weight", ".bias"].iter().any(|part| name.strip_suffix(part) == Some(module)))
    };
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let expected = "an actor-critic policy of linear layers alone (MlpPolicy)";
        return Err(Problem::Other(format!("has `{unknown}`, expected {expected}")));
    }
    if modules.len() > MAX_LAYERS {
        return Err(Problem::Other(format!("has more than {MAX_LAYERS} layers")));
    }
    let mut layers: Vec<Linear> = Vec::new();
    for module in &modules {
        let (shape, weight) = numbers(tensors, &names, &format!("{module}.weight"), bytes)?;
        let [outputs, inputs] = shape[..] else {
            let problem = format!("shape of {module}.weight is {shape:?}, expected [outputs, inputs]");
            return Err(Problem::Other(problem));
        };
        if let Some(above) = layers.last()
            && above.outputs() != inputs
        {
            let above = above.outputs();
            let problem = format!("{module}.weight reads {inputs} numbers, the layer above gives {above}");
            return Err(Problem::Other(problem));
        }
        let (shape, bias) = numbers(tensors, &names, &format!("{module}.bias"), bytes)?;
        if shape != [outputs] {
            let problem = format!("shape of {module}.bias is {shape:?}, expected [{outputs}]");
            return Err(Problem::Other(problem));
        }
        layers.push(Linear { weight, bias, inputs });
    }
    Ok(layers)
}

/// The shape and the numbers of a tensor.
fn numbers(
    tensors: &TorchArchive,
    names: &[String],
    name: &str,
    bytes: u64,
) -> Result<(Vec<usize>, Vec<f32>), Problem> {
    let refuse = |problem: String| Err(Problem::Other(problem));
    if !names.iter().any(|known| known == name) {
        return refuse(format!("has no `{name}`"));
    }
    let (kind, found) = tensors.type_of(name);
    if kind != Some(tch::Kind::Float) {
        return refuse(format!("{name} has type {found}, expected torch.FloatStorage"));
    }
    let shape = tensors.shape(name);
    let sizes: Option<Vec<usize>> =
        shape.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0)).collect();
    let count = shape.iter().try_fold(4u64, |count, &size| count.checked_mul(u64::try_from(size).ok()?));
    // Strides of 0 could make much of little.
    let (Some(sizes), true) = (sizes, count.is_some_and(|count| count <= bytes)) else {
        return refuse(format!("shape of {name} is {shape:?}, expected one that fits the file"));
    };
    let tensor = tensors.read(name)?;
    let numbers = Vec::<f32>::try_from(tensor.reshape([-1])).map_err(ltd_engine::Error::from)?;
    if numbers.iter().any(|number| !number.is_finite()) {
        return refuse(format!("{name} has infinities or NaN, expected finite numbers"));
    }
    Ok((sizes, numbers))
}
