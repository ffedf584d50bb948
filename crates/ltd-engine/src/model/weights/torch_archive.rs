//! `pytorch_model.bin`: the zip archive that `torch.save` writes, of a pickle and one record per
//! storage.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Cursor, Read, Seek};
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

/// What `torch.save` wrote, of which tensors are read when they are wanted. Nothing in it is
/// executed.
#[derive(Debug)]
pub struct TorchArchive {
    path: PathBuf,
    content: Content,
    tensors: BTreeMap<String, StoredTensor>,
    records: Records,
}

/// First byte and number of bytes of each record.
type Records = HashMap<String, (u64, u64)>;

#[derive(Debug)]
enum Content {
    File(File),
    Memory(Vec<u8>),
}

impl TorchArchive {
    /// Reads the names of the tensors; nothing in the archive is executed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::of(Content::File(File::open(path).map_err(Error::io(path))?), path)
    }

    /// `open` of a file whose bytes are known, such as one within an archive;
    /// `path` is for messages.
    ///
    /// # Errors
    /// If it is no such file, or holds anything but named tensors.
    pub fn of_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::of(Content::Memory(bytes), path)
    }

    fn of(content: Content, path: &Path) -> Result<Self> {
        let (program, records) = match &content {
            Content::File(file) => directory(file, path)?,
            Content::Memory(bytes) => directory(Cursor::new(bytes), path)?,
        };
        let tensors = pickle::tensors(&program).map_err(|problem| Error::Pickle {
            path: path.to_owned(),
            problem: format!("data.pkl {problem}"),
        })?;
        Ok(Self { path: path.to_owned(), content, tensors: tensors.into_iter().collect(), records })
    }

    /// Names of the tensors.
    pub fn names(&self) -> Vec<String> {
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
    ///
    /// # Panics
    /// If there is none of that name; [`TorchArchive::type_of`] and [`TorchArchive::read`] alike.
    pub fn shape(&self, name: &str) -> Vec<i64> {
        self.tensors[name].shape.clone()
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Type of a tensor of this file, if the engine knows it, and its name.
    pub fn type_of(&self, name: &str) -> (Option<Kind>, String) {
        let stored = &self.tensors[name].kind;
        (kind_of(stored), stored.clone())
    }

    /// Reads a tensor of this file, to the CPU.
    ///
    /// # Errors
    /// If its type is not known or its numbers are not there.
    pub fn read(&self, name: &str) -> Result<Tensor> {
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
        let bytes = self.content.part(start, length).map_err(Error::io(&self.path))?.ok_or_else(outside)?;
        let count = (length / size) as i64;
        let storage = Tensor::f_from_data_size(&bytes[..(count as u64 * size) as usize], &[count], kind)?;
        let tensor = storage.f_as_strided(&stored.shape, &stored.strides, stored.offset)?;
        // Of what the storage holds only this tensor stays.
        let own = Tensor::f_empty(&stored.shape, (kind, Device::Cpu))?;
        own.shallow_clone().f_copy_(&tensor)?;
        Ok(own)
    }
}

/// The pickle of an archive, and where its records are.
fn directory(mut archive: impl Read + Seek, path: &Path) -> Result<(Vec<u8>, Records)> {
    let refuse = |problem: String| Error::Pickle { path: path.to_owned(), problem };
    let mut start = [0; ZIP.len()];
    if archive.read_exact(&mut start).is_err() || start != ZIP {
        let problem =
            "no zip archive, as torch.save writes since PyTorch 1.6: save it anew, or as safetensors";
        return Err(refuse(problem.to_owned()));
    }
    let mut archive = ZipArchive::new(archive).map_err(|error| refuse(format!("incomplete: {error}")))?;
    let (mut program, mut records) = (None, Records::new());
    for index in 0..archive.len() {
        let record = archive.by_index(index).map_err(|error| refuse(error.to_string()))?;
        // All records stand in one folder, whose name is that of the file that was first written.
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
    Ok((program.ok_or_else(|| refuse("has no data.pkl".to_owned()))?, records))
}

impl Content {
    /// Some bytes; nothing if they are not all there: a record's place comes from the archive, and
    /// no more is asked for than there is.
    fn part(&self, start: u64, length: u64) -> std::io::Result<Option<Cow<'_, [u8]>>> {
        let Some(end) = start.checked_add(length) else { return Ok(None) };
        match self {
            Self::File(file) => {
                if file.metadata()?.len() < end {
                    return Ok(None);
                }
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(Some(bytes.into()))
            }
            Self::Memory(bytes) => Ok(bytes.get(start as usize..end as usize).map(Cow::Borrowed)),
        }
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
