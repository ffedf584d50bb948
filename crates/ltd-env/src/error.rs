//! Everything that can go wrong in an environment.

/// Result of an environment operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An environment failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A cycle failed.
    #[cfg(feature = "live")]
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// There was a wish to stop.
    #[error("interrupted")]
    Interrupted,
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A policy file or latency table could not be read or written.
    #[error(transparent)]
    Policy(#[from] ltd_policy::Error),
    /// A trace is damaged, or not the one that is needed.
    #[error("{path}: {problem}", path = path.display())]
    Trace {
        /// The trace, or a file of it.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two writers would spoil a trace.
    #[error("{path}: another process is writing this trace: wait until it has ended, or choose another folder",
        path = path.display())]
    TraceInUse {
        /// The trace.
        path: std::path::PathBuf,
    },
    /// A trace without a position cannot be replayed.
    #[error("the trace has no position to replay")]
    EmptyTrace,
    /// A trace that leaves out positions cannot be replayed.
    #[error("the trace has a tree at every {every} tokens only, and cycles need the tree where they land")]
    Gaps {
        /// Tokens from one position to the next.
        every: usize,
    },
    /// A trace without the tokens of the candidates cannot tell what a merged tree holds.
    #[error(
        "the trace lacks the tokens of the candidates (it is of an older version), and merged trees need them: \
             record it into another folder"
    )]
    NoCandidates,
    /// A trace cannot show a controller what was not recorded.
    #[error("the trace lacks {what}, and the controller looks at them: record with {flag}")]
    NothingToShow {
        /// What the controller looks at.
        what: &'static str,
        /// What has it recorded.
        flag: &'static str,
    },
    /// The trees of a trace are not deeper.
    #[error("draft depth {depth} is that of the recorded trees")]
    DepthLimit {
        /// Their depth.
        depth: usize,
    },
    /// A saved state is not one of this environment.
    #[error("the saved environment state is not of the expected form: {0}")]
    State(#[from] serde_json::Error),
    /// Exact values of actions were asked of an environment that learns outcomes only by trying.
    #[error("this environment does not know outcomes in advance: exact advantages need recorded cycles")]
    OutcomesUnknown,
    /// Drafting always ends before the first decision.
    #[error(
        "no depth was to be decided in {cycles} cycles: drafting ended before depth {min_depth}, with nothing left that the \
         size allows to verify"
    )]
    NoDecision {
        /// Cycles that went by.
        cycles: usize,
        /// Where the first decision would be due.
        min_depth: usize,
    },
    /// Nothing that could be copied is ever found.
    #[error("nothing was there to copy in {cycles} cycles: the latest token was never said before")]
    NothingToCopy {
        /// Cycles that went by.
        cycles: usize,
    },
    /// Every cycle copies.
    #[error("no tree was to be drafted in {cycles} cycles: all of them copied")]
    NoTree {
        /// Cycles that went by.
        cycles: usize,
    },
    /// No prompt leads to a cycle.
    #[error(
        "the target ended {answers} answers in a row before their first token: there is nothing to learn from"
    )]
    NothingToDecode {
        /// Answers that ended at once.
        answers: usize,
    },
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

impl Error {
    /// Whether the user's input, rather than the run, is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Trace { .. }
                | Self::TraceInUse { .. }
                | Self::EmptyTrace
                | Self::NoCandidates
                | Self::NothingToShow { .. }
        )
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
