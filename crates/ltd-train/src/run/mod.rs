//! A run's folder and what it says of where it came from.

mod beginning;
mod folder;
pub(crate) mod hardware;
mod provenance;
mod tensor_file;

pub(crate) use beginning::Beginning;
pub(crate) use folder::{RunFolder, StageFolder};
pub use provenance::{Machine, git_revision};
pub(crate) use provenance::{Provenance, seconds_since_1970, timestamp, unix_time};
pub(crate) use tensor_file::TensorFile;
