//! Tensors of a model folder, handed out by name and shape.

mod file_tensor;
mod files;
#[cfg(test)]
mod fuzz;
mod pickle;
mod safetensors_file;
mod stored_tensor;
mod torch_archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};
use safetensors_file::SafetensorsFile;
pub use torch_archive::TorchArchive;

pub(crate) use file_tensor::FileTensor;
pub(crate) use files::{passed_over_index, weight_files};

/// The tensors of a folder. [`Weights::take`] reads and removes them one by one, so that only what
/// is in use is in memory; [`Weights::finish`] reports what was missing or left over.
pub(crate) struct Weights {
    folder: PathBuf,
    /// Each with the file that it is in.
    tensors: BTreeMap<String, Rc<WeightFile>>,
    missing: Vec<String>,
    device: Device,
    kind: Kind,
    /// What is not there is made up.
    random: bool,
}

/// The whole numbers of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Integers {
    /// Where the tensor is.
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    pub(crate) values: Vec<i64>,
}

/// Spread of random weights: activations stay of the order of one.
const RANDOM_DEVIATION: f64 = 0.02;

/// One weight file, of which tensors are read when they are wanted.
enum WeightFile {
    Safetensors(SafetensorsFile),
    Torch(TorchArchive),
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self> {
        Ok(if files::is_pickle(path) {
            Self::Torch(TorchArchive::open(path)?)
        } else {
            Self::Safetensors(SafetensorsFile::open(path)?)
        })
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Torch(file) => file.names(),
        }
    }

    fn sizes(&self) -> Vec<(usize, Kind)> {
        match self {
            Self::Safetensors(file) => file.sizes(),
            Self::Torch(file) => file.sizes(),
        }
    }

    fn shape(&self, name: &str) -> Vec<i64> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Torch(file) => file.shape(name),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Torch(file) => file.path(),
        }
    }

    /// Type of a tensor, if the engine knows it, and what the file calls it.
    fn type_of(&self, name: &str) -> (Option<Kind>, String) {
        match self {
            Self::Safetensors(file) => file.type_of(name),
            Self::Torch(file) => file.type_of(name),
        }
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.tensor(name)?.read(),
            Self::Torch(file) => file.read(name),
        }
    }

    /// [`WeightFile::read`], possibly as a view of the file.
    fn map(&self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.tensor(name)?.map(),
            Self::Torch(file) => file.read(name),
        }
    }
}

impl Weights {
    /// Opens the weight files of a folder. Floating-point tensors are converted to `kind`, and
    /// moved to the device last named with [`Weights::move_to`], when they are taken.
    pub(crate) fn open(folder: &Path, kind: Kind) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for path in weight_files(folder)? {
            let file = Rc::new(WeightFile::open(&path)?);
            tensors.extend(file.names().into_iter().map(|name| (name, Rc::clone(&file))));
        }
        Ok(Self {
            folder: folder.to_owned(),
            tensors,
            missing: Vec::new(),
            device: Device::Cpu,
            kind,
            random: false,
        })
    }

    /// Weights without a file, made on the device when taken: matrices are random, vectors (norms,
    /// biases) ones.
    pub(crate) fn random(kind: Kind) -> Self {
        Self {
            folder: PathBuf::from("random weights"),
            tensors: BTreeMap::new(),
            missing: Vec::new(),
            device: Device::Cpu,
            kind,
            random: true,
        }
    }

    /// From now on tensors go to this device.
    pub(crate) fn move_to(&mut self, device: Device) {
        self.device = device;
    }

    /// Where the weights come from, for messages.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The type that floating-point tensors are taken in.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where tensors go.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Whether a tensor is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether a tensor is there whose name starts so.
    pub(crate) fn contains_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    /// Takes a tensor of a known shape. A missing one is noted for [`Weights::finish`] and replaced
    /// by zeros, so that all missing names are reported at once.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        self.take_by(WeightFile::read, name, shape)
    }

    /// [`Weights::take`], possibly as a view of the file: for tensors of which only another form is
    /// kept.
    pub(crate) fn take_view(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        self.take_by(WeightFile::map, name, shape)
    }

    fn take_by(
        &mut self,
        read: impl Fn(&WeightFile, &str) -> Result<Tensor>,
        name: &str,
        shape: &[i64],
    ) -> Result<Tensor> {
        let Some(file) = self.tensors.remove(name) else {
            if self.random {
                return self.make_up(shape);
            }
            self.missing.push(name.to_owned());
            return Ok(Tensor::f_zeros(shape, (self.kind, self.device))?);
        };
        check_weight(&file, name, shape)?;
        let tensor = read(&file, name)?;
        Ok(tensor.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }

    /// Takes a vector of whole numbers as they are in the file, whatever the weights' type. Of
    /// random weights there is none, nor is a missing one, which [`Weights::finish`] reports.
    pub(crate) fn take_integers(&mut self, name: &str, length: i64) -> Result<Option<Integers>> {
        let Some(file) = self.tensors.remove(name) else {
            self.missing.extend((!self.random).then(|| name.to_owned()));
            return Ok(None);
        };
        check_shape(&file, name, &[length])?;
        let values = match file.type_of(name) {
            (Some(_), _) => integers(&file.read(name)?)?,
            (None, found) => {
                Err(format!("has type {found}, expected int64 or another type of whole numbers"))
            }
        };
        let (path, name) = (file.path().to_owned(), name.to_owned());
        match values {
            Ok(values) => Ok(Some(Integers { file: path, name, values })),
            Err(problem) => Err(Error::IndexTensor { file: path, tensor: name, problem }),
        }
    }

    /// Takes a matrix that is on the CPU and may stay in its file. Nothing is taken, and
    /// [`Weights::take`] is to be used, if it is to go elsewhere or its file is no safetensors
    /// file.
    pub(crate) fn take_in_place(&mut self, name: &str, shape: [i64; 2]) -> Result<Option<FileTensor>> {
        let file = self.tensors.get(name).filter(|_| self.device == Device::Cpu);
        let Some(file @ WeightFile::Safetensors(tensors)) = file.map(Rc::as_ref) else { return Ok(None) };
        check_weight(file, name, &shape)?;
        let tensor = tensors.tensor(name)?;
        self.tensors.remove(name);
        Ok(Some(tensor))
    }

    fn make_up(&self, shape: &[i64]) -> Result<Tensor> {
        let options = (self.kind, self.device);
        Ok(match shape {
            [_] => Tensor::f_ones(shape, options)?,
            _ => Tensor::f_randn(shape, options)?.f_mul_(&Tensor::from(RANDOM_DEVIATION))?,
        })
    }

    /// Takes tensors that some checkpoints carry and this engine does not need: all with such an
    /// end of their name.
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

fn check_shape(file: &WeightFile, name: &str, shape: &[i64]) -> Result<()> {
    let found = file.shape(name);
    if found == shape {
        return Ok(());
    }
    let (file, name, expected) = (file.path().to_owned(), name.to_owned(), shape.to_vec());
    Err(Error::TensorShape { file, name, expected, found })
}

/// Fails unless a tensor is of some shape, and of a type that weights have.
fn check_weight(file: &WeightFile, name: &str, shape: &[i64]) -> Result<()> {
    check_shape(file, name, shape)?;
    match file.type_of(name) {
        (Some(kind), _) if is_weight(kind) => Ok(()),
        (_, found) => Err(Error::TensorType { path: file.path().to_owned(), name: name.to_owned(), found }),
    }
}

fn is_weight(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16)
}

/// The entries of a vector, or which of them is no whole number, or beyond those that its type can
/// tell apart.
fn integers(tensor: &Tensor) -> Result<Result<Vec<i64>, String>> {
    let exact = match tensor.kind() {
        Kind::BFloat16 => 8,
        Kind::Half => 11,
        Kind::Float => 24,
        Kind::Double => 53,
        _ => return Ok(Ok(Vec::try_from(tensor.f_to_kind(Kind::Int64)?)?)),
    };
    let largest = f64::from(exact).exp2();
    let numbers: Vec<f64> = Vec::try_from(tensor.f_to_kind(Kind::Double)?)?;
    let whole = numbers.iter().enumerate().map(|(index, &number)| {
        if number.fract() != 0.0 {
            // Not a number, too.
            Err(format!("entry {index} is {number}, expected a whole number"))
        } else if number.abs() > largest {
            let kind = tensor.kind();
            Err(format!(
                "entry {index} is {number}, but {kind:?} tells whole numbers apart only up to {largest}: expected int64"
            ))
        } else {
            Ok(number as i64)
        }
    });
    Ok(whole.collect())
}

/// The floating-point type in which a model folder stores its weights (that of its largest tensor).
pub(crate) fn stored_kind(folder: &Path) -> Result<Kind> {
    let mut largest = (0, Kind::Float);
    for path in weight_files(folder)? {
        for (size, kind) in WeightFile::open(&path)?.sizes() {
            if size > largest.0 && is_weight(kind) {
                largest = (size, kind);
            }
        }
    }
    Ok(largest.1)
}
