//! One safetensors file, of which tensors are read when they are wanted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use tch::Kind;

use super::file_tensor::FileTensor;

use crate::{Error, Result};

/// Bytes of the header's length, which stands before the header.
const LENGTH_BYTES: u64 = 8;
/// Longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// An open file and where its tensors are.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    file: Arc<File>,
    metadata: Metadata,
    /// Where the first tensor starts.
    data: u64,
}

impl SafetensorsFile {
    /// Reads the header and checks that all of the tensors are there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = Error::io;
        let invalid = |source| Error::Safetensors { path: path.to_owned(), source };
        let file = File::open(path).map_err(io(path))?;
        let length = file.metadata().map_err(io(path))?.len();
        if length < LENGTH_BYTES {
            return Err(invalid(SafeTensorError::HeaderTooSmall));
        }
        let mut header_length = [0; LENGTH_BYTES as usize];
        file.read_exact_at(&mut header_length, 0).map_err(io(path))?;
        let header_length = u64::from_le_bytes(header_length);
        if header_length > LONGEST_HEADER {
            return Err(invalid(SafeTensorError::HeaderTooLarge));
        }
        let data = LENGTH_BYTES + header_length;
        if data > length {
            return Err(invalid(SafeTensorError::InvalidHeaderLength));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact_at(&mut header, LENGTH_BYTES).map_err(io(path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|source| invalid(SafeTensorError::InvalidHeaderDeserialization(source)))?;
        if data + metadata.data_len() as u64 != length {
            return Err(invalid(SafeTensorError::MetadataIncompleteBuffer));
        }
        Ok(Self { path: path.to_owned(), file: Arc::new(file), metadata, data })
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Number of elements and type of each tensor whose type the engine knows.
    pub(super) fn sizes(&self) -> Vec<(usize, Kind)> {
        let tensors = self.metadata.tensors().into_values();
        tensors.filter_map(|info| Some((info.shape.iter().product(), kind_of(info.dtype)?))).collect()
    }

    /// Shape of a tensor of this file.
    pub(super) fn shape(&self, name: &str) -> Vec<i64> {
        self.info(name).shape.iter().map(|&size| size as i64).collect()
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Type of a tensor of this file, if the engine knows it, and its name.
    pub(super) fn type_of(&self, name: &str) -> (Option<Kind>, String) {
        let dtype = self.info(name).dtype;
        (kind_of(dtype), format!("{dtype:?}"))
    }

    /// A tensor of this file.
    pub(super) fn tensor(&self, name: &str) -> Result<FileTensor> {
        let info = self.info(name);
        let kind = kind_of(info.dtype).ok_or_else(|| Error::TensorType {
            path: self.path.clone(),
            name: name.to_owned(),
            found: format!("{:?}", info.dtype),
        })?;
        Ok(FileTensor {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            start: self.data + info.data_offsets.0 as u64,
            shape: self.shape(name),
            kind,
        })
    }

    fn info(&self, name: &str) -> &TensorInfo {
        self.metadata.info(name).expect("invariant: asked only for names of this file")
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::F64 => Kind::Double,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
