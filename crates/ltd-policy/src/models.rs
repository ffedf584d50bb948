//! Which models something was made with, and whether those of a run are others.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A model, told from others by what its files hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Folder name.
    pub name: String,
    /// SHA-256 over its configuration and weights.
    pub sha256: String,
}

/// The models that draft and verify, and how wide the trees are: what a policy, a trace or a
/// latency table belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// The target.
    pub target: ModelIdentity,
    /// The draft.
    pub draft: ModelIdentity,
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
}

/// Digits of a sum that tell models apart in a message.
const DIGITS: usize = 12;

impl Models {
    /// Fails, naming both sides of all that differs, unless what `path` holds is of the models of
    /// `owner`.
    pub fn check(&self, path: &Path, owner: &str, theirs: &Self) -> Result<()> {
        let identities = [("target", &self.target, &theirs.target), ("draft", &self.draft, &theirs.draft)];
        let mut differences: Vec<String> = identities
            .into_iter()
            .filter(|(_, ours, theirs)| ours.sha256 != theirs.sha256)
            .map(|(what, ours, theirs)| format!("its {what} is {ours}, that of {owner} is {theirs}"))
            .collect();
        let (ours, theirs) = (self.beam_width, theirs.beam_width);
        if ours != theirs {
            differences.push(format!("its beam width is {ours}, that of {owner} is {theirs}"));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherModels { path: path.to_owned(), differences: differences.join("; ") })
    }
}

impl std::fmt::Display for ModelIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let digits: String = self.sha256.chars().take(DIGITS).collect();
        if self.name.is_empty() { write!(f, "{digits}") } else { write!(f, "{} ({digits})", self.name) }
    }
}
