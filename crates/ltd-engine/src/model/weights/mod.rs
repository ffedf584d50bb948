//! Tensors of a model folder, handed out by name and shape.

mod files;
mod pickle;
mod safetensors_file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};
use safetensors_file::SafetensorsFile;

pub(crate) use files::weight_files;

/// The tensors of a folder. [`Weights::take`] reads and removes them one by one, so that only what is in use is in
/// memory; [`Weights::finish`] reports what was missing or left over.
pub(crate) struct Weights {
    folder: PathBuf,
    tensors: BTreeMap<String, Stored>,
    missing: Vec<String>,
    device: Device,
    kind: Kind,
}

/// Where a tensor is.
enum Stored {
    /// Under its name in a file.
    File(Rc<SafetensorsFile>),
    /// Already in memory: pickled checkpoints are read as a whole.
    Memory(Tensor),
}

impl Weights {
    /// Opens the weight files of a folder. Floating-point tensors are converted to `kind`, and moved to the device last
    /// named with [`Weights::move_to`], when they are taken.
    pub(crate) fn open(folder: &Path, kind: Kind) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for path in weight_files(folder)? {
            if files::is_pickle(&path) {
                let stored = pickle::read(&path)?.into_iter();
                tensors.extend(stored.map(|(name, tensor)| (name, Stored::Memory(tensor))));
            } else {
                let file = Rc::new(SafetensorsFile::open(&path)?);
                tensors.extend(file.names().into_iter().map(|name| (name, Stored::File(Rc::clone(&file)))));
            }
        }
        Ok(Self { folder: folder.to_owned(), tensors, missing: Vec::new(), device: Device::Cpu, kind })
    }

    /// From now on tensors go to this device.
    pub(crate) fn move_to(&mut self, device: Device) {
        self.device = device;
    }

    /// Whether a tensor is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether a tensor is there whose name starts so.
    pub(crate) fn contains_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    /// Takes a tensor of a known shape. A missing one is noted for [`Weights::finish`] and replaced by zeros, so
    /// that all missing names are reported at once.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let Some(stored) = self.tensors.remove(name) else {
            self.missing.push(name.to_owned());
            return Ok(Tensor::zeros(shape, (self.kind, self.device)));
        };
        let found = match &stored {
            Stored::File(file) => file.shape(name),
            Stored::Memory(tensor) => tensor.size(),
        };
        if found != shape {
            return Err(Error::TensorShape {
                folder: self.folder.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found,
            });
        }
        let tensor = match stored {
            Stored::File(file) => file.read(name)?,
            Stored::Memory(tensor) => tensor,
        };
        let kind = if tensor.is_floating_point() { self.kind } else { tensor.kind() };
        Ok(tensor.f_to_device(self.device)?.f_to_kind(kind)?)
    }

    /// Takes a tensor that some checkpoints carry and this engine does not need.
    pub(crate) fn discard(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// [`Weights::discard`], of all names with such an end.
    pub(crate) fn discard_suffix(&mut self, suffix: &str) {
        self.tensors.retain(|name, _| !name.ends_with(suffix));
    }

    /// Fails if a tensor was missing or one is left over.
    pub(crate) fn finish(self) -> Result<()> {
        if !self.missing.is_empty() {
            return Err(Error::MissingTensors { folder: self.folder, names: self.missing });
        }
        if !self.tensors.is_empty() {
            return Err(Error::SurplusTensors {
                folder: self.folder,
                names: self.tensors.into_keys().collect(),
            });
        }
        Ok(())
    }
}

/// The floating-point type in which a model folder stores its weights (that of its largest tensor).
pub(crate) fn stored_kind(folder: &Path) -> Result<Kind> {
    let mut largest = (0, Kind::Float);
    for path in weight_files(folder)? {
        let found = if files::is_pickle(&path) {
            let tensors = pickle::read(&path)?.into_iter();
            tensors.map(|(_, tensor)| (tensor.numel(), tensor.kind())).collect()
        } else {
            SafetensorsFile::open(&path)?.sizes()
        };
        let floats =
            found.into_iter().filter(|(_, kind)| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16));
        largest = floats.fold(largest, |largest, found| if found.0 > largest.0 { found } else { largest });
    }
    Ok(largest.1)
}
