//! What can go wrong in a measurement.

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An argument cannot be used as it is.
    #[error("{argument}: {problem}")]
    Argument { argument: &'static str, problem: String },
    /// The configuration or its prompts.
    #[error(transparent)]
    Config(#[from] ltd_run::Error),
    /// The models.
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] ltd_engine::text::TextError),
    /// The target ends every answer before its first token.
    #[error("the target answers each prompt for evaluation with the end of the sequence: nothing to measure")]
    NothingToDecode,
    /// Where the figures are to go.
    #[error(transparent)]
    Place(ltd_policy::Error),
    /// The output file.
    #[error("cannot write {0}")]
    Write(#[from] ltd_policy::Error),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] ltd_console::OutputError),
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Engine(error.into())
    }
}

impl Error {
    /// Whether the user's input, rather than the run, is at fault: exit code 2 instead of 1.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Argument { .. } | Self::Text(_) => true,
            Self::Place(error) => error.is_usage(),
            Self::Config(error) => error.is_usage(),
            Self::Engine(error) => error.is_usage(),
            Self::NothingToDecode | Self::Write(_) | Self::Output(_) => false,
        }
    }
}
