//! A policy as an archive that `stable_baselines3.PPO.load` reads (versions 2), for the released
//! Python code and whatever else is built on it.
//!
//! The archive holds the policy's layers as `mlp_extractor.policy_net` and `action_net`. A package
//! keeps no critic: that of the archive has no hidden layer and is zero, so that the policy can
//! decide and be trained on, but its first updates teach it values.

mod read;

use std::io::{Cursor, Write};
use std::path::Path;

use base64ct::{Base64, Encoding};
use ltd_policy::{Activation, Linear, Mlp, write_atomically};
use serde_json::json;
use zip::write::FileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::pickle::Value;
use crate::Result;

pub(crate) use read::{Saved, read};

/// The version of stable-baselines3 whose form it is.
const VERSION: &str = "2.9.2";
/// What an archive's parts are called.
const DATA: &str = "data";
const POLICY: &str = "policy.pth";
const VERSION_FILE: &str = "_stable_baselines3_version";
/// What Python calls the activations.
const CLASS_OF_RELU: &str = "<class 'torch.nn.modules.activation.ReLU'>";
const CLASS_OF_TANH: &str = "<class 'torch.nn.modules.activation.Tanh'>";

/// A tensor of an archive of PyTorch.
struct Tensor<'t> {
    name: String,
    shape: Vec<usize>,
    values: &'t [f32],
}

/// Writes a policy.
pub(super) fn write(mlp: &Mlp, path: &Path) -> Result<()> {
    let layers = mlp.to_layers();
    let zeros = vec![0.0; mlp.inputs()];
    let mut tensors = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Linear { weight, bias, inputs } = layer;
        let name = if index + 1 == layers.len() { "action_net".to_owned() } else { hidden_layer(index) };
        tensors.push(Tensor {
            name: format!("{name}.weight"),
            shape: vec![bias.len(), *inputs],
            values: weight,
        });
        tensors.push(Tensor { name: format!("{name}.bias"), shape: vec![bias.len()], values: bias });
    }
    tensors.push(Tensor {
        name: "value_net.weight".to_owned(),
        shape: vec![1, mlp.inputs()],
        values: &zeros,
    });
    tensors.push(Tensor { name: "value_net.bias".to_owned(), shape: vec![1], values: &zeros[..1] });
    let files = [
        (DATA, data(mlp).into_bytes()),
        (POLICY, state(&tensors)),
        ("policy.optimizer.pth", torch_archive(&optimizer(tensors.len()), &[])),
        (VERSION_FILE, VERSION.as_bytes().to_vec()),
        ("system_info.txt", format!("- ltd-export: {}\n", env!("CARGO_PKG_VERSION")).into_bytes()),
    ];
    Ok(write_atomically(path, &archive(files.iter().map(|(name, bytes)| (*name, &bytes[..]))))?)
}

/// The logits that a written policy gives to observations: it is read as others' are.
pub(super) fn logits(path: &Path, observations: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    let mlp = read::read(path)?.mlp;
    let mut scratch = mlp.scratch();
    Ok(observations.iter().map(|row| mlp.forward(row, &mut scratch).to_vec()).collect())
}

/// The module that is a hidden layer: every other one is an activation.
fn hidden_layer(index: usize) -> String {
    format!("mlp_extractor.policy_net.{}", 2 * index)
}

/// What stable-baselines3 restores of a model besides its weights.
fn data(mlp: &Mlp) -> String {
    let pickled = |kind: &str, value: &Value| json!({ ":type:": format!("<class '{kind}'>"), ":serialized:": Base64::encode_string(&value.pickled()) });
    let float = Value::Name("numpy", "float32");
    let infinite = [f64::NEG_INFINITY, f64::INFINITY].map(Value::Float);
    let [low, high] = infinite;
    let shape = Value::Tuple(vec![Value::count(mlp.inputs())]);
    let observations = Value::call("gymnasium.spaces.box", "Box", vec![low, high, shape, float]);
    let actions = Value::call("gymnasium.spaces.discrete", "Discrete", vec![Value::count(mlp.outputs())]);
    let (activation, class_of_activation) = match mlp.activation() {
        Activation::Relu => ("ReLU", CLASS_OF_RELU),
        Activation::Tanh => ("Tanh", CLASS_OF_TANH),
    };
    let widths = mlp.hidden_widths();
    let hidden = widths.iter().copied().map(Value::count).collect();
    let architecture = Value::dict([("pi", Value::List(hidden)), ("vf", Value::List(Vec::new()))]);
    let arguments = Value::dict([
        ("net_arch", architecture),
        ("activation_fn", Value::Name("torch.nn.modules.activation", activation)),
    ]);
    // As stable-baselines3 does, the same in words, for those who read no pickles.
    let mut arguments = pickled("dict", &arguments);
    arguments["net_arch"] = json!({ "pi": widths, "vf": [] });
    arguments["activation_fn"] = json!(class_of_activation);
    let class = Value::Name("stable_baselines3.common.policies", "ActorCriticPolicy");
    let data = json!({
        "policy_class": pickled("abc.ABCMeta", &class),
        "policy_kwargs": arguments,
        "observation_space": pickled("gymnasium.spaces.box.Box", &observations),
        "action_space": pickled("gymnasium.spaces.discrete.Discrete", &actions),
        "n_envs": 1,
        "verbose": 0,
        "seed": null,
        "use_sde": false,
        "sde_sample_freq": -1,
        "num_timesteps": 0,
        "_total_timesteps": 0,
        "_num_timesteps_at_start": 0,
        "_episode_num": 0,
        "_n_updates": 0,
        "_current_progress_remaining": 1.0,
        "_stats_window_size": 100,
        "tensorboard_log": null,
        "learning_rate": 0.0003,
        "n_steps": 128,
        "batch_size": 64,
        "n_epochs": 10,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "clip_range_vf": null,
        "normalize_advantage": true,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "target_kl": null,
    });
    data.to_string()
}

/// The state of an Adam that has made no step.
fn optimizer(tensors: usize) -> Value {
    let group = Value::dict([
        ("lr", Value::Float(0.0003)),
        ("betas", Value::Tuple(vec![Value::Float(0.9), Value::Float(0.999)])),
        ("eps", Value::Float(1e-5)),
        ("weight_decay", Value::Int(0)),
        ("amsgrad", Value::Bool(false)),
        ("params", Value::List((0..tensors).map(Value::count).collect())),
    ]);
    Value::dict([("state", Value::Dict(Vec::new())), ("param_groups", Value::List(vec![group]))])
}

/// Named tensors, as `torch.save` writes a module's state.
fn state(tensors: &[Tensor]) -> Vec<u8> {
    let entries = tensors.iter().enumerate().map(|(number, tensor)| {
        let storage = Value::Elsewhere(vec![
            Value::text("storage"),
            Value::Name("torch", "FloatStorage"),
            Value::text(number.to_string()),
            Value::text("cpu"),
            Value::count(tensor.values.len()),
        ]);
        let shape = tensor.shape.iter().copied().map(Value::count).collect();
        let strides = (1..=tensor.shape.len()).map(|axis| tensor.shape[axis..].iter().product::<usize>());
        let arguments = vec![
            storage,
            Value::Int(0),
            Value::Tuple(shape),
            Value::Tuple(strides.map(Value::count).collect()),
            Value::Bool(false),
            Value::Ordered(Vec::new()),
        ];
        (Value::text(&*tensor.name), Value::call("torch._utils", "_rebuild_tensor_v2", arguments))
    });
    torch_archive(&Value::Ordered(entries.collect()), tensors)
}

/// A value as `torch.save` writes it, with the tensors that it keeps elsewhere.
fn torch_archive(value: &Value, tensors: &[Tensor]) -> Vec<u8> {
    let pickle = value.pickled();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let names: Vec<String> = (0..bytes.len()).map(|number| format!("policy/data/{number}")).collect();
    let head = [("policy/data.pkl", &pickle[..]), ("policy/byteorder", &b"little"[..])];
    let storages = names.iter().map(String::as_str).zip(bytes.iter().map(Vec::as_slice));
    archive(head.into_iter().chain(storages).chain([("policy/version", &b"3\n"[..])]))
}

/// A zip archive, nothing compressed: PyTorch maps its parts.
fn archive<'f>(files: impl Iterator<Item = (&'f str, &'f [u8])>) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    // The same bytes whenever it is written.
    let options = FileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (name, bytes) in files {
        archive.start_file(name, options).expect("invariant: it is in memory");
        archive.write_all(bytes).expect("invariant: it is in memory");
    }
    archive.finish().expect("invariant: it is in memory").into_inner()
}
