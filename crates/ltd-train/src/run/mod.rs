//! A run's folder and what it says of where it came from.

mod beginning;
mod folder;
mod provenance;
mod tensor_file;

pub(crate) use beginning::Beginning;
pub(crate) use folder::{RunFolder, StageFolder};
pub(crate) use provenance::{Program, Provenance, seconds_since_1970, timestamp, unix_time};
pub(crate) use tensor_file::TensorFile;
