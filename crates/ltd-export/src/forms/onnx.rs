//! A policy in the Open Neural Network Exchange format, for runtimes of other frameworks.
//!
//! Field numbers are those of `onnx.proto`, of which policies need a part.

use std::path::Path;

use ltd_policy::{Activation, Linear, Mlp, write_atomically};
use prost::{Message, Oneof};

use super::unreadable;
use crate::{Error, Result};

/// Version of the operators: `Gemm`, `Relu` and `Tanh` have not changed since 14.
const OPSET: i64 = 21;
/// Version of the file format that came with it.
const IR_VERSION: i64 = 10;
/// Name of the input, `[batch, observation]` of f32.
const INPUT: &str = "observation";
/// Name of the output, `[batch, outputs]` of f32.
const OUTPUT: &str = "logits";
/// Name of the axis that may have any length.
const BATCH: &str = "batch";
/// Operators between the layers.
const RELU: &str = "Relu";
const TANH: &str = "Tanh";
/// f32, as a type of tensors.
const FLOAT: i32 = 1;
/// A whole number, as a type of attributes.
const INT: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Property>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Property {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Initializer>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Initializer {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorKind>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorKind {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    axes: Vec<Axis>,
}

#[derive(Clone, PartialEq, Message)]
struct Axis {
    #[prost(oneof = "Length", tags = "1, 2")]
    length: Option<Length>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Length {
    #[prost(int64, tag = "1")]
    Fixed(i64),
    #[prost(string, tag = "2")]
    Any(String),
}

impl Value {
    /// `[batch, width]` of f32.
    fn rows(name: &str, width: usize) -> Self {
        let lengths = [Length::Any(BATCH.to_owned()), Length::Fixed(width as i64)];
        let axes = lengths.map(|length| Axis { length: Some(length) });
        let tensor = TensorKind { element: FLOAT, shape: Some(Shape { axes: axes.to_vec() }) };
        Self { name: name.to_owned(), kind: Some(Kind { tensor: Some(tensor) }) }
    }
}

impl Initializer {
    fn new(name: &str, dims: &[usize], values: &[f32]) -> Self {
        Self {
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn values(&self) -> Vec<f32> {
        self.raw_data.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }
}

/// Writes a model that maps observations `[batch, observation]` to logits `[batch, outputs]`.
/// `properties` are told in its metadata.
pub(super) fn write(mlp: &Mlp, properties: &[(&str, String)], path: &Path) -> Result<()> {
    let layers = mlp.to_layers();
    let (activation, name) = match mlp.activation() {
        Activation::Relu => (RELU, "relu"),
        Activation::Tanh => (TANH, "tanh"),
    };
    let mut graph = Graph {
        name: "policy".to_owned(),
        input: vec![Value::rows(INPUT, mlp.inputs())],
        output: vec![Value::rows(OUTPUT, mlp.outputs())],
        ..Graph::default()
    };
    let mut above = INPUT.to_owned();
    for (index, Linear { weight, bias, inputs }) in layers.iter().enumerate() {
        let [weights, biases] = ["weight", "bias"].map(|part| format!("layers.{index}.{part}"));
        graph.initializer.push(Initializer::new(&weights, &[bias.len(), *inputs], weight));
        graph.initializer.push(Initializer::new(&biases, &[bias.len()], bias));
        let last = index + 1 == layers.len();
        let sum = if last { OUTPUT.to_owned() } else { format!("layers.{index}") };
        // A weight is [outputs, inputs].
        let transposed = Attribute { name: "transB".to_owned(), i: 1, kind: INT };
        graph.node.push(Node {
            input: vec![above, weights, biases],
            output: vec![sum.clone()],
            name: format!("linear.{index}"),
            op_type: "Gemm".to_owned(),
            attribute: vec![transposed],
        });
        above = sum;
        if !last {
            let activated = format!("{above}.{name}");
            graph.node.push(Node {
                input: vec![above],
                output: vec![activated.clone()],
                name: format!("{name}.{index}"),
                op_type: activation.to_owned(),
                attribute: Vec::new(),
            });
            above = activated;
        }
    }
    let property = |(key, value): &(&str, String)| Property { key: (*key).to_owned(), value: value.clone() };
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "ltd-export".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![Opset { domain: String::new(), version: OPSET }],
        metadata_props: properties.iter().map(property).collect(),
    };
    Ok(write_atomically(path, &model.encode_to_vec())?)
}

/// The logits that a written model gives to observations: its graph is followed as it stands in the
/// file.
pub(super) fn logits(path: &Path, observations: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let model = Model::decode(&bytes[..]).map_err(|error| unreadable(path, error))?;
    let graph = model.graph.unwrap_or_default();
    let tensor = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name);
    let linear = |node: &Node| {
        let [_, weight, bias] = &node.input[..] else { return None };
        let (weight, bias) = (tensor(weight)?, tensor(bias)?);
        Some(Linear { weight: weight.values(), bias: bias.values(), inputs: *weight.dims.get(1)? as usize })
    };
    let layers: Option<Vec<Linear>> =
        graph.node.iter().filter(|node| node.op_type == "Gemm").map(linear).collect();
    let layers = layers.filter(|layers| !layers.is_empty());
    let activation =
        if graph.node.iter().any(|node| node.op_type == TANH) { Activation::Tanh } else { Activation::Relu };
    let layers = layers.ok_or_else(|| unreadable(path, "its graph lacks layers"))?;
    let mlp = Mlp::with_activation(&layers, activation);
    let mut scratch = mlp.scratch();
    Ok(observations.iter().map(|row| mlp.forward(row, &mut scratch).to_vec()).collect())
}
