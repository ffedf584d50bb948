//! `pytorch_model.bin`: the zip archive that `torch.save` writes, of a pickle and one record per
//! storage.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::pickle;
use super::stored_tensor::StoredTensor;
use crate::{Error, Result};

/// First bytes of a zip archive.
const ZIP: [u8; 4] = *b"PK\x03\x04";
/// A pickle of a checkpoint takes some hundred bytes per tensor.
const LONGEST_PICKLE: u64 = 100_000_000;

/// An open archive and where its tensors are.
pub(super) struct TorchArchive {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, StoredTensor>,
    /// First byte and number of bytes of each record.
    records: HashMap<String, (u64, u64)>,
}

impl TorchArchive {
    /// Reads the names of the tensors; nothing in the archive is executed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let refuse = |problem: String| Error::Pickle { path: path.to_owned(), problem };
        let mut start = [0; ZIP.len()];
        if file.read_exact_at(&mut start, 0).is_err() || start != ZIP {
            let problem =
                "no zip archive, as torch.save writes since PyTorch 1.6: save it anew, or as safetensors";
            return Err(refuse(problem.to_owned()));
        }
        let reader = file.try_clone().map_err(Error::io(path))?;
        let mut archive = ZipArchive::new(reader).map_err(|error| refuse(format!("incomplete: {error}")))?;
        let (mut program, mut records) = (None, HashMap::new());
        for index in 0..archive.len() {
            let record = archive.by_index(index).map_err(|error| refuse(error.to_string()))?;
            // All records stand in one folder, whose name is that of the file that was first
            // written.
            let name = record.name().split_once('/').map_or("", |(_, name)| name).to_owned();
            let place = (record.data_start(), record.size());
            if name == "data.pkl" {
                let mut bytes = Vec::new();
                record.take(LONGEST_PICKLE).read_to_end(&mut bytes).map_err(Error::io(path))?;
                program = Some(bytes);
            } else if let Some(key) = name.strip_prefix("data/") {
                if record.compression() != CompressionMethod::Stored {
                    return Err(refuse(format!("record {name} is compressed")));
                }
                records.insert(key.to_owned(), place);
            }
        }
        let program = program.ok_or_else(|| refuse("has no data.pkl".to_owned()))?;
        let tensors = pickle::tensors(&program).map_err(|problem| refuse(format!("data.pkl {problem}")))?;
        Ok(Self { path: path.to_owned(), file, tensors: tensors.into_iter().collect(), records })
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Number of elements and type of each tensor whose type the engine knows.
    pub(super) fn sizes(&self) -> Vec<(usize, Kind)> {
        let sizes = self.tensors.values().filter_map(|tensor| {
            let count = tensor.shape.iter().fold(1i64, |count, &size| count.saturating_mul(size));
            Some((count.max(0) as usize, kind_of(&tensor.kind)?))
        });
        sizes.collect()
    }

    /// Shape of a tensor of this file.
    pub(super) fn shape(&self, name: &str) -> Vec<i64> {
        self.tensors[name].shape.clone()
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Type of a tensor of this file, if the engine knows it, and its name.
    pub(super) fn type_of(&self, name: &str) -> (Option<Kind>, String) {
        let stored = &self.tensors[name].kind;
        (kind_of(stored), stored.clone())
    }

    /// Reads a tensor of this file, to the CPU.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let stored = &self.tensors[name];
        let refuse = |problem: String| Error::Pickle { path: self.path.clone(), problem };
        let kind = kind_of(&stored.kind).ok_or_else(|| Error::TensorType {
            path: self.path.clone(),
            name: name.to_owned(),
            found: stored.kind.clone(),
        })?;
        let record = self.records.get(&stored.record);
        let &(start, length) = record.ok_or_else(|| refuse(format!("tensor {name} has no bytes")))?;
        let size = kind.elt_size_in_bytes() as u64;
        let outside = || refuse(format!("tensor {name} is not within its {length} bytes"));
        if stored.last_element().is_none_or(|last| last >= length / size) {
            return Err(outside());
        }
        // A record's length comes from the archive: no more is asked for than the file has.
        if self.file.metadata().map_err(Error::io(&self.path))?.len() < start.saturating_add(length) {
            return Err(outside());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, start).map_err(Error::io(&self.path))?;
        let count = (length / size) as i64;
        let storage = Tensor::f_from_data_size(&bytes[..(count as u64 * size) as usize], &[count], kind)?;
        let tensor = storage.f_as_strided(&stored.shape, &stored.strides, stored.offset)?;
        // Of what the storage holds only this tensor stays.
        let own = Tensor::f_empty(&stored.shape, (kind, Device::Cpu))?;
        own.shallow_clone().f_copy_(&tensor)?;
        Ok(own)
    }
}

fn kind_of(storage: &str) -> Option<Kind> {
    Some(match storage {
        "torch.FloatStorage" => Kind::Float,
        "torch.HalfStorage" => Kind::Half,
        "torch.BFloat16Storage" => Kind::BFloat16,
        "torch.LongStorage" => Kind::Int64,
        "torch.DoubleStorage" => Kind::Double,
        "torch.IntStorage" => Kind::Int,
        "torch.ShortStorage" => Kind::Int16,
        "torch.CharStorage" => Kind::Int8,
        "torch.ByteStorage" => Kind::Uint8,
        "torch.BoolStorage" => Kind::Bool,
        _ => return None,
    })
}
