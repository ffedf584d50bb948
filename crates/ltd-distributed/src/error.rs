//! Everything that can go wrong between ranks.

/// Result of an operation of a group.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure between ranks.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The launcher's environment makes no sense, or is not allowed.
    #[error("{variable}: {problem}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store could not be served or reached.
    #[error(
        "{server}, which serves the store of the ranks at {address}, is gone or cannot be reached: {problem}"
    )]
    Store {
        /// Who serves it: rank 0 or the launcher.
        server: &'static str,
        /// Host and port.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// A message was not sealed with this rank's secret.
    #[error(
        "rank {rank} has another secret than this rank, or none: LTD_SECRET_FILE must name the same secret \
         everywhere ({what})"
    )]
    Secret {
        /// Who sent it.
        rank: usize,
        /// What it was to say.
        what: String,
    },
    /// Ranks that cannot work together.
    #[error("{0}")]
    Differs(String),
    /// Another rank failed, and said why.
    #[error("rank {rank} failed: {reason}")]
    Failed {
        /// Who.
        rank: usize,
        /// Why, in its own words.
        reason: String,
        /// Whether the user's input is at fault.
        usage: bool,
    },
    /// Another rank was asked to stop.
    #[error("rank {rank} was interrupted")]
    Interrupted {
        /// Who.
        rank: usize,
    },
    /// A rank did not come.
    #[error("rank {rank} did not join within {seconds} s")]
    Absent {
        /// Who.
        rank: usize,
        /// How long the others waited.
        seconds: u64,
    },
    /// A rank gives no sign of life.
    #[error("rank {rank} is dead or stopped: no sign of life for {seconds} s")]
    Silent {
        /// Who.
        rank: usize,
        /// For how long.
        seconds: u64,
    },
    /// A rank lives and does not do what the others wait for.
    #[error("rank {rank} hangs: it lives, but has not got on for {seconds} s, and others wait ({what})")]
    Hangs {
        /// Who.
        rank: usize,
        /// For how long.
        seconds: u64,
        /// What it was to do.
        what: String,
    },
    /// There is a wish to stop here.
    #[error("interrupted")]
    Stopped,
    /// A message is not what it should be.
    #[error("a message of rank {rank} cannot be read ({what}): {problem}")]
    Message {
        /// Who sent it.
        rank: usize,
        /// What it was to say.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Whether nothing failed, but there was a wish to stop, here or elsewhere.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::Stopped)
    }

    /// Whether the user's input, rather than the run, is at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Environment { .. } | Self::Secret { .. } | Self::Differs(_) => true,
            Self::Failed { usage, .. } => *usage,
            _ => false,
        }
    }
}
