//! Everything that can be wrong with a policy or a package.

use std::path::{Path, PathBuf};

/// Result of a policy operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A policy failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A result cannot go where it was asked for.
    #[error("{flag}: {}: {problem}", path.display())]
    Place {
        /// What named the place on the command line.
        flag: &'static str,
        /// The place.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A policy file is truncated or malformed.
    #[error("{}: not a complete safetensors file: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// JSON of the wrong form.
    #[error("{}: {what} is not of the expected form: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// Where parsing stopped.
        source: serde_json::Error,
    },
    /// JSON of the right form up to one field.
    #[error("{}: {field}: {source}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A latency table that cannot be used.
    #[error("{}: latency table: {problems}", path.display())]
    LatencyTable {
        /// The file.
        path: PathBuf,
        /// What is impossible or missing, each with its field.
        problems: String,
    },
    /// A file of another format version.
    #[error("{}: format version {found}, this program reads version {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Versions this program reads.
        expected: String,
        /// Version of the file.
        found: u32,
    },
    /// A policy whose parts do not fit one another.
    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which quantity.
        what: String,
        /// Value it should have.
        expected: String,
        /// Value it has.
        found: String,
    },
    /// What is of some models was to be used with others.
    #[error("{}: {differences}", path.display())]
    OtherModels {
        /// The file or folder.
        path: PathBuf,
        /// What differs, with both sides.
        differences: String,
    },
    /// A package cannot be taken to another machine.
    #[error("the package cannot be retargeted: {problem}")]
    Retarget {
        /// Why not.
        problem: String,
    },
    /// A file of a package was changed after it was written.
    #[error("{}: SHA-256 is {found}, the manifest says {expected}: the file is corrupt or was changed", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Sum in the manifest.
        expected: String,
        /// Sum of the file.
        found: String,
    },
}

/// Whether a file could not be read because another one was meant.
fn is_misnamed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

impl Error {
    /// Whether the user's input is at fault: not if a file is there and the system refuses to read
    /// or write it.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_misnamed(source),
            _ => true,
        }
    }

    /// Wraps an I/O error with the path it concerns.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn mismatch(
        path: &Path,
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Mismatch { path: path.to_owned(), what: what.into(), expected, found }
    }
}
