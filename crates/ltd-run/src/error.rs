//! What can go wrong with a run's configuration, its prompts and its recordings.

use std::path::PathBuf;

use crate::config::Problems;

/// Result of an operation that the programs share.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure.
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
    /// The configuration file could not be read.
    #[error("{}: {source}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A prompt cannot be decoded.
    #[error("{}: question {id}: {source}", file.display())]
    Prompt {
        /// The question file.
        file: PathBuf,
        /// The question.
        id: String,
        /// What is wrong with it.
        source: Box<ltd_engine::Error>,
    },
    /// Sets of prompts overlap that must not.
    #[error("{0}: measure on other prompts than are learned from")]
    SharedPrompts(String),
    /// The cache is too small for the trees whose costs are to be measured.
    #[error("engine.max_length: {capacity} positions leave no room to measure trees of {room}")]
    NoRoom {
        /// Positions of the engine's caches.
        capacity: usize,
        /// Positions that the largest tree takes.
        room: usize,
    },
    /// The machine was too busy to measure anything.
    #[error("what was measured makes no sense: {0}")]
    Disturbed(String),
    /// Some of what was measured is of CUDA graphs, and some is not.
    #[error("{0}: what was measured until then is of graphs; set engine.cuda_graphs to \"off\"")]
    HalfGraphs(String),
    /// What the environment says of this process among others makes no sense.
    #[error("{0}")]
    Launcher(String),
    /// The models.
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// Prompts or tokenizer.
    #[error(transparent)]
    Text(#[from] ltd_engine::text::TextError),
    /// A recording or a measurement.
    #[error(transparent)]
    Env(#[from] ltd_env::Error),
    /// A latency table.
    #[error(transparent)]
    Policy(#[from] ltd_policy::Error),
    /// Ctrl-C cannot be listened for.
    #[error("signals cannot be handled: {0}")]
    Signal(#[from] ctrlc::Error),
}

impl Error {
    /// Whether nothing failed, but there was a wish to stop.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Env(ltd_env::Error::Interrupted))
    }

    /// Whether the user's input, rather than the run, is at fault: exit code 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config { .. }
            | Self::ConfigFile { .. }
            | Self::Prompt { .. }
            | Self::SharedPrompts(_)
            | Self::NoRoom { .. }
            | Self::Launcher(_)
            | Self::Text(_) => true,
            Self::Policy(error) => error.is_usage(),
            Self::Engine(error) => error.is_usage(),
            Self::Env(error) => error.is_usage(),
            Self::Io { .. } | Self::Disturbed(_) | Self::HalfGraphs(_) | Self::Signal(_) => false,
        }
    }
}
