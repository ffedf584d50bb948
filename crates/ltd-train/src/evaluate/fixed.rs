//! Decoding by a setting that does not change: what policies have to beat.

use ltd_engine::{Controller, Copying, Static};
use ltd_env::oracle::{Constant, CopyConstant};
use ltd_policy::{CopyRule, Fallback};
use serde::{Deserialize, Serialize};

use ltd_run::config::StaticSetting;

/// Trees of one shape, and perhaps copies by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FixedSetting {
    /// Draft forwards after the root expansion.
    pub(crate) depth: usize,
    /// Candidates to verify.
    pub(crate) size: usize,
    /// When to copy in place of drafting; `null` never does.
    pub(crate) copies: Option<CopyRule>,
}

impl FixedSetting {
    pub(crate) fn controller(self) -> Box<dyn Controller> {
        let Self { depth, size, copies } = self;
        let trees = Static { depth, size };
        match copies {
            Some(rule) => Box::new(Copying { rule, merged: None, trees }),
            None => Box::new(trees),
        }
    }

    /// Depth and size of its trees.
    pub(crate) fn trees(self) -> StaticSetting {
        StaticSetting { depth: self.depth, size: self.size }
    }

    /// What ships in place of a policy, and why.
    pub(crate) fn fallback(self, reason: String) -> Fallback {
        let Self { depth, size, copies } = self;
        Fallback { depth, size, copies, reason }
    }
}

impl std::fmt::Display for FixedSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "depth {}, size {}", self.depth, self.size)?;
        self.copies.map_or(Ok(()), |rule| write!(f, ", copying {rule}"))
    }
}

impl From<StaticSetting> for FixedSetting {
    fn from(StaticSetting { depth, size }: StaticSetting) -> Self {
        Self { depth, size, copies: None }
    }
}

impl From<Constant> for FixedSetting {
    fn from(Constant { depth, size, .. }: Constant) -> Self {
        Self { depth, size, copies: None }
    }
}

impl From<CopyConstant> for FixedSetting {
    fn from(CopyConstant { rule, constant }: CopyConstant) -> Self {
        Self { copies: Some(rule), ..constant.into() }
    }
}
