//! Everything that can go wrong in an environment.

/// Result of an environment operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An environment failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A cycle failed.
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// A saved state is not one of this environment.
    #[error("the saved environment state is not of the expected form: {0}")]
    State(#[from] serde_json::Error),
    /// `step` without an episode.
    #[error("no episode is under way: call reset first")]
    NoEpisode,
    /// An action the environment does not have.
    #[error("action {action} was taken, but there are only {count}")]
    UnknownAction {
        /// The action.
        action: usize,
        /// Number of actions.
        count: usize,
    },
}
