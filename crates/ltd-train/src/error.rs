//! Everything that can go wrong in training.

use std::path::PathBuf;

use crate::problem::Problems;

/// Result of a training operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A training failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{}:\n{problems}", origin.display())]
    Config {
        /// The file.
        origin: PathBuf,
        /// All that is wrong with it.
        problems: Problems,
    },
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A checkpoint is damaged or belongs to another run.
    #[error("{}: not a checkpoint of this run: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The models.
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// Prompts or tokenizer.
    #[error(transparent)]
    Text(#[from] ltd_engine::text::TextError),
    /// An environment.
    #[error(transparent)]
    Env(#[from] ltd_env::Error),
    /// A policy file.
    #[error(transparent)]
    Policy(#[from] ltd_policy::Error),
    /// LibTorch refused an operation.
    #[error("LibTorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// Whether the user's input, rather than the run, is at fault: exit code 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config { .. } | Self::Text(_))
    }
}
