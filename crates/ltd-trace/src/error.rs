//! Everything that can go wrong.

/// Result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration, its prompts or a measurement.
    #[cfg(feature = "live")]
    #[error(transparent)]
    Run(#[from] ltd_run::Error),
    /// How tokens are to be chosen makes no sense.
    #[cfg(feature = "live")]
    #[error("--{flag}: {problem}")]
    Sampling {
        /// The argument.
        flag: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A recording had no room; what is complete of it is kept.
    #[cfg(feature = "live")]
    #[error("{0}\nwhat was recorded is kept; the same command goes on")]
    Recording(ltd_env::Error),
    /// Shards do not hold what they were to.
    #[error(
        "{0}\nnothing was written: record these shards again (they go on where they were), or merge with \
             --allow-gaps"
    )]
    Missing(String),
    /// A trace or a replay.
    #[error(transparent)]
    Env(#[from] ltd_env::Error),
    /// A result could not be printed.
    #[error(transparent)]
    Output(#[from] ltd_console::OutputError),
    /// A model.
    #[cfg(feature = "live")]
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// Prompts.
    #[cfg(feature = "live")]
    #[error(transparent)]
    Text(#[from] ltd_engine::text::TextError),
    /// A latency table or a policy package.
    #[error(transparent)]
    Policy(#[from] ltd_policy::Error),
}

impl Error {
    /// Whether nothing failed, but there was a wish to stop.
    pub fn is_interrupt(&self) -> bool {
        match self {
            #[cfg(feature = "live")]
            Self::Run(error) => error.is_interrupt(),
            Self::Env(error) => matches!(error, ltd_env::Error::Interrupted),
            _ => false,
        }
    }

    /// Whether the user's input, rather than the run, is at fault: exit code 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Policy(error) => error.is_usage(),
            Self::Env(error) => error.is_usage(),
            Self::Output(_) | Self::Missing(_) => false,
            #[cfg(feature = "live")]
            Self::Text(_) | Self::Sampling { .. } => true,
            #[cfg(feature = "live")]
            Self::Run(error) => error.is_usage(),
            #[cfg(feature = "live")]
            Self::Engine(error) => error.is_usage(),
            #[cfg(feature = "live")]
            Self::Recording(_) => false,
        }
    }
}
