//! Named f32 tensors with a JSON value beside them, as one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use ltd_policy::write_atomically;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// Key of the JSON value among the file's metadata.
const STATE: &str = "state";

/// What such a file holds.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub(crate) tensors: Vec<(String, Tensor)>,
    pub(crate) state: serde_json::Value,
}

impl TensorFile {
    /// Writes the file: complete, or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut buffers: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let flat = tensor.detach().to_kind(Kind::Float).contiguous().view(-1);
            let values = Vec::<f32>::try_from(flat)?;
            let shape = tensor.size().iter().map(|&size| size as usize).collect();
            buffers.push((name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
        }
        let views = buffers.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("invariant: shapes come from the tensors"))
        });
        let metadata = HashMap::from([(STATE.to_owned(), self.state.to_string())]);
        let bytes = safetensors::serialize(views, Some(metadata)).expect("invariant: names are unique");
        Ok(write_atomically(path, &bytes)?)
    }

    /// Reads such a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let broken = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        let parse_error = |error: safetensors::SafeTensorError| broken(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(parse_error)?;
        let state = metadata.metadata().as_ref().and_then(|entries| entries.get(STATE));
        let state = state.ok_or_else(|| broken(format!("it has no `{STATE}`")))?;
        let state = serde_json::from_str(state).map_err(|error| broken(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(parse_error)?;
        let mut tensors = Vec::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(broken(format!("{name} is of type {:?}, expected F32", view.dtype())));
            }
            let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            tensors.push((name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?));
        }
        Ok(Self { tensors, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file.safetensors");
        let tensor = Tensor::from_slice(&[1.0f32, -2.5, 3.0, 4.0, 0.1, 6.0]).view([2, 3]);
        let state = serde_json::json!({ "stage": 1 });
        let tensors = vec![
            ("a".to_owned(), tensor.shallow_clone()),
            ("empty".to_owned(), Tensor::from_slice::<f32>(&[])),
        ];
        TensorFile { tensors, state: state.clone() }.write(&path).expect("written");
        let file = TensorFile::read(&path).expect("read");
        assert_eq!(file.state, state);
        let (_, found) = file.tensors.iter().find(|(name, _)| name == "a").expect("the tensor");
        assert_eq!((found.size(), found == &tensor), (vec![2, 3], true));

        let bytes = std::fs::read(&path).expect("the file");
        for end in [0, 7, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..end]).expect("written");
            let error = TensorFile::read(&path).expect_err("truncated").to_string();
            assert!(error.contains("file.safetensors: not a checkpoint of this run"), "{error}");
        }
    }
}
