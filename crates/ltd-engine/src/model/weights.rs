//! Tensors of a model folder, handed out by name and shape.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// The tensors of a folder. [`Weights::take`] removes them one by one; [`Weights::finish`] reports what was
/// missing or left over.
pub(crate) struct Weights {
    folder: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    missing: Vec<String>,
    device: Device,
    kind: Kind,
    /// What is not there is made up.
    random: bool,
}

/// Spread of random weights: activations stay of the order of one.
const RANDOM_DEVIATION: f64 = 0.02;

impl Weights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names. Floating-point tensors
    /// are converted to `kind` and moved to `device` when taken.
    pub(crate) fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for path in weight_files(folder)? {
            read_safetensors(&path, &mut tensors)?;
        }
        Ok(Self { folder: folder.to_owned(), tensors, missing: Vec::new(), device, kind, random: false })
    }

    /// Weights without a file, made when taken: matrices are random, vectors (norms) ones.
    pub(crate) fn random(device: Device, kind: Kind) -> Self {
        Self {
            folder: PathBuf::from("random weights"),
            tensors: BTreeMap::new(),
            missing: Vec::new(),
            device,
            kind,
            random: true,
        }
    }

    /// Where the weights come from, for messages.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a tensor is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes a tensor of a known shape. A missing one is noted for [`Weights::finish`] and replaced by zeros, so
    /// that all missing names are reported at once.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            if self.random {
                return self.make_up(shape);
            }
            self.missing.push(name.to_owned());
            return Ok(Tensor::zeros(shape, (self.kind, self.device)));
        };
        if tensor.size() != shape {
            return Err(Error::TensorShape {
                folder: self.folder.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.size(),
            });
        }
        let kind = if tensor.is_floating_point() { self.kind } else { tensor.kind() };
        Ok(tensor.f_to_device(self.device)?.f_to_kind(kind)?)
    }

    fn make_up(&self, shape: &[i64]) -> Result<Tensor> {
        let options = (self.kind, self.device);
        Ok(match shape {
            [_] => Tensor::f_ones(shape, options)?,
            _ => Tensor::f_randn(shape, options)?.f_mul_scalar_(RANDOM_DEVIATION)?,
        })
    }

    /// Takes a tensor that some checkpoints carry and this engine does not need.
    pub(crate) fn discard(&mut self, name: &str) {
        self.tensors.remove(name);
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

/// The safetensors files of a model folder, each once, in order of name.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
        let index: Index =
            serde_json::from_str(&text).map_err(|source| Error::Json { path: index.clone(), source })?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        return Ok(files.into_iter().map(|file| folder.join(file)).collect());
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    std::fs::metadata(folder).map_err(Error::io(folder))?;
    Err(Error::NoWeights { folder: folder.to_owned() })
}

/// The floating-point type in which a model folder stores its weights (that of its largest tensor).
pub(crate) fn stored_kind(folder: &Path) -> Result<Kind> {
    let mut largest = (0, Kind::Float);
    for path in weight_files(folder)? {
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let file = parse(&path, &bytes)?;
        for (_, view) in file.iter() {
            if let Some(kind) = kind_of(view.dtype())
                && kind != Kind::Int64
                && kind != Kind::Bool
                && view.data().len() > largest.0
            {
                largest = (view.data().len(), kind);
            }
        }
    }
    Ok(largest.1)
}

fn read_safetensors(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let file = parse(path, &bytes)?;
    for (name, view) in file.iter() {
        // Types that no model here uses are left out and reported as missing if one is needed.
        let Some(kind) = kind_of(view.dtype()) else { continue };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(())
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|source| Error::Safetensors { path: path.to_owned(), source })
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
