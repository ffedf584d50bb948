//! Why ranks go before their time, as the others are told.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Why a rank ends, as others are told.
pub trait Ending {
    /// The rank that failed first, if that is another one.
    fn origin(&self) -> Option<usize> {
        None
    }

    /// In words.
    fn reason(&self) -> String;
    /// Whether nothing failed, but there was a wish to stop.
    fn interrupted(&self) -> bool;
    /// Whether the user's input is at fault.
    fn usage(&self) -> bool;
}

impl Ending for Error {
    fn origin(&self) -> Option<usize> {
        match self {
            Self::Failed { rank, .. } | Self::Interrupted { rank } => Some(*rank),
            _ => None,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Failed { reason, .. } => reason.clone(),
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

/// Why a rank goes before its time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Farewell {
    rank: usize,
    reason: String,
    interrupted: bool,
    usage: bool,
}

impl Farewell {
    /// Of this rank, unless another one failed first.
    pub(crate) fn of(rank: usize, error: &dyn Ending) -> Self {
        Self {
            rank: error.origin().unwrap_or(rank),
            reason: error.reason(),
            interrupted: error.interrupted(),
            usage: error.usage(),
        }
    }
}

impl From<Farewell> for Error {
    fn from(farewell: Farewell) -> Self {
        let Farewell { rank, reason, interrupted, usage } = farewell;
        if interrupted { Self::Interrupted { rank } } else { Self::Failed { rank, reason, usage } }
    }
}
