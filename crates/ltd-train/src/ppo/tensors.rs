//! Tensors of a file by name, from and to plain arrays.

use tch::{Kind, Tensor};

/// A tensor of a file.
pub(super) fn tensor(values: &[f32], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).reshape(shape)
}

/// The tensor of this name.
pub(super) fn find<'t>(tensors: &'t [(String, Tensor)], name: &str) -> Result<&'t Tensor, String> {
    let found = tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor);
    found.ok_or_else(|| format!("{name} is missing"))
}

/// The numbers of the tensor of this name, which must have this shape.
pub(super) fn values(tensors: &[(String, Tensor)], name: &str, shape: &[i64]) -> Result<Vec<f32>, String> {
    let tensor = find(tensors, name)?;
    let found = tensor.size();
    if found != shape {
        return Err(format!("{name} has shape {found:?}, this configuration needs {shape:?}"));
    }
    let flat = tensor.detach().to_kind(Kind::Float).reshape(-1);
    Vec::try_from(flat).map_err(|error| format!("{name}: {error}"))
}
