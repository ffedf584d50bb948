//! Everything that can go wrong in training.

use std::path::PathBuf;

/// Result of a training operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A training failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration, prompts, recordings or measurements.
    #[error(transparent)]
    Run(#[from] ltd_run::Error),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The folder of a run cannot be used.
    #[error("run folder {}: {problem}", path.display())]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint is damaged or belongs to another run.
    #[error("{}: not a checkpoint of this run: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of results cannot be read, or gone on with.
    #[error("{}: {problem}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A trace or a latency table cannot be learned from.
    #[error("{0}")]
    Recorded(String),
    /// Weights are no numbers any more.
    #[error(
        "{stage}: training diverged within {timesteps} timesteps: its gradient is not finite; try a lower \
         learning_rate"
    )]
    Diverged {
        /// The stage.
        stage: String,
        /// How far it came.
        timesteps: usize,
    },
    /// What steers a contender panicked.
    #[error("{who} panicked: {message}")]
    Panicked {
        /// The contender.
        who: String,
        /// What it said.
        message: String,
    },
    /// There was no cycle to measure.
    #[error(
        "{task}: the target ended its answer to each of {prompts} prompts before the first token: \
         nothing was measured"
    )]
    NothingMeasured {
        /// What was to be measured.
        task: String,
        /// Prompts that were decoded.
        prompts: usize,
    },
    /// A run failed that had begun, so that what it finished is in its folder.
    #[error("{source}\nwhat is finished is kept; go on with: ltd-train --resume {}", run.display())]
    Unfinished {
        /// The folder of the run.
        run: PathBuf,
        /// What went wrong.
        source: Box<Error>,
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
    /// A result could not be printed.
    #[error(transparent)]
    Output(#[from] ltd_console::OutputError),
    /// A package could not be written.
    #[error(transparent)]
    Export(#[from] ltd_export::Error),
    /// One of several processes of a run fails.
    #[error("rank {rank}: {source}")]
    OfRank {
        /// Which.
        rank: usize,
        /// Why.
        source: Box<Error>,
    },
    /// Other processes of the run.
    #[error(transparent)]
    Distributed(#[from] ltd_distributed::Error),
    /// Ranks as they were started cannot work together.
    #[error("{0}")]
    Ranks(String),
    /// LibTorch refused an operation.
    #[error("LibTorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// Whether nothing failed, but there was a wish to stop.
    pub fn is_interrupt(&self) -> bool {
        match self {
            Self::Env(error) => matches!(error, ltd_env::Error::Interrupted),
            Self::Run(error) => error.is_interrupt(),
            Self::Distributed(error) => error.is_interrupt(),
            Self::OfRank { source, .. } | Self::Unfinished { source, .. } => source.is_interrupt(),
            _ => false,
        }
    }

    /// Whether there was nothing to learn from or to measure: another attempt ends alike.
    pub fn is_empty_handed(&self) -> bool {
        use ltd_env::Error as Env;
        match self {
            Self::NothingMeasured { .. } => true,
            Self::Env(error) => {
                matches!(error, Env::NothingToDecode { .. } | Env::NothingToCopy { .. } | Env::NoTree { .. })
            }
            _ => false,
        }
    }

    /// Whether the user's input, rather than the run, is at fault: exit code 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::RunFolder { .. }
            | Self::Checkpoint { .. }
            | Self::Results { .. }
            | Self::Recorded(_)
            | Self::Ranks(_)
            | Self::Text(_) => true,
            Self::Distributed(error) => error.is_usage(),
            Self::OfRank { source, .. } => source.is_usage(),
            Self::Run(error) => error.is_usage(),
            Self::Policy(error) => error.is_usage(),
            Self::Export(error) => error.is_usage(),
            Self::Engine(error) => error.is_usage(),
            Self::Env(error) => error.is_usage(),
            _ => false,
        }
    }
}

impl ltd_distributed::Ending for Error {
    fn origin(&self) -> Option<usize> {
        match self {
            Self::Distributed(error) => error.origin(),
            Self::Unfinished { source, .. } => source.origin(),
            _ => None,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Distributed(error) => error.reason(),
            Self::Unfinished { source, .. } => source.reason(),
            other => other.to_string(),
        }
    }

    fn interrupted(&self) -> bool {
        self.is_interrupt()
    }

    fn usage(&self) -> bool {
        self.is_usage()
    }
}
