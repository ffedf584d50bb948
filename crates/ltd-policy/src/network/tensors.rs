//! Networks and a text in one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::mlp::Linear;
use crate::{Error, Result};

/// Most layers of a network, the last one included: a bound on what a file can ask for.
pub const MAX_LAYERS: usize = 16;

/// What a file is to hold.
#[derive(Debug, Default)]
pub struct TensorsOut(Vec<(String, Vec<usize>, Vec<u8>)>);

impl TensorsOut {
    /// Adds a tensor.
    ///
    /// # Panics
    /// If there are not as many values as the shape says.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a tensor has the values of its shape");
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.push((name.into(), shape.to_vec(), bytes));
    }

    /// Adds the layers of a network as `{prefix}layers.0.weight`, `{prefix}layers.0.bias` and so
    /// on.
    pub fn push_layers(&mut self, prefix: &str, layers: &[Linear]) {
        for (index, layer) in layers.iter().enumerate() {
            let name = format!("{prefix}layers.{index}");
            self.push(format!("{name}.weight"), &[layer.outputs(), layer.inputs], &layer.weight);
            self.push(format!("{name}.bias"), &[layer.outputs()], &layer.bias);
        }
    }

    /// The file's content, with a text among its metadata.
    ///
    /// # Panics
    /// If two tensors have one name.
    pub fn to_bytes(&self, key: &str, text: String) -> Vec<u8> {
        let views = self.0.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("invariant: values fit their shape"))
        });
        let metadata = HashMap::from([(key.to_owned(), text)]);
        safetensors::serialize(views, Some(metadata)).expect("invariant: names are unique")
    }
}

/// What a file holds.
#[derive(Debug)]
pub struct TensorsIn<'b> {
    file: SafeTensors<'b>,
    text: String,
    path: &'b Path,
}

impl<'b> TensorsIn<'b> {
    /// Reads a file of which the bytes are known; `path` is for messages.
    ///
    /// # Errors
    /// If it is no such file, or its metadata lacks the text.
    pub fn parse(bytes: &'b [u8], path: &'b Path, key: &str) -> Result<Self> {
        let broken = |source| Error::Safetensors { path: path.to_owned(), source };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        let text = metadata.metadata().as_ref().and_then(|entries| entries.get(key));
        let text =
            text.ok_or_else(|| Error::mismatch(path, "metadata", format!("a `{key}` entry"), "none"))?;
        Ok(Self { file, text: text.clone(), path })
    }

    /// The text among the metadata.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The shape and the values of a tensor.
    ///
    /// # Errors
    /// If there is none of that name, or it has other values than finite ones of f32.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let path = self.path;
        let broken = |source| Error::Safetensors { path: path.to_owned(), source };
        let view = self.file.tensor(name).map_err(broken)?;
        if view.dtype() != Dtype::F32 {
            let found = format!("{:?}", view.dtype());
            return Err(Error::mismatch(path, format!("type of {name}"), "F32", found));
        }
        let (words, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        if values.iter().any(|value| !value.is_finite()) {
            let what = format!("values of {name}");
            return Err(Error::mismatch(path, what, "finite numbers", "infinities or NaN"));
        }
        Ok((view.shape().to_vec(), values))
    }

    /// The layers of a network, as [`TensorsOut::push_layers`] names them: at least one.
    ///
    /// # Errors
    /// If there are none or more than [`MAX_LAYERS`], or they do not fit one another.
    pub fn layers(&self, prefix: &str) -> Result<Vec<Linear>> {
        let path = self.path;
        let weight = |index: usize| format!("{prefix}layers.{index}.weight");
        let count = (0..=MAX_LAYERS).take_while(|&index| self.file.tensor(&weight(index)).is_ok()).count();
        if count == 0 || count > MAX_LAYERS {
            let what = format!("number of {prefix}layers");
            return Err(Error::mismatch(path, what, format!("1..={MAX_LAYERS}"), count));
        }
        let mut layers: Vec<Linear> = Vec::with_capacity(count);
        for index in 0..count {
            let name = weight(index);
            let (shape, weight) = self.tensor(&name)?;
            let of_shape = |name: &str, expected: &str, found: &[usize]| {
                Error::mismatch(path, format!("shape of {name}"), expected, format!("{found:?}"))
            };
            let [outputs, inputs] = shape[..] else {
                return Err(of_shape(&name, "[outputs, inputs]", &shape));
            };
            if outputs == 0 || inputs == 0 {
                return Err(of_shape(&name, "no empty axis", &shape));
            }
            if let Some(above) = layers.last()
                && above.outputs() != inputs
            {
                return Err(Error::mismatch(path, format!("columns of {name}"), above.outputs(), inputs));
            }
            let name = format!("{prefix}layers.{index}.bias");
            let (shape, bias) = self.tensor(&name)?;
            if shape != [outputs] {
                return Err(of_shape(&name, &format!("[{outputs}]"), &shape));
            }
            layers.push(Linear { weight, bias, inputs });
        }
        Ok(layers)
    }
}
