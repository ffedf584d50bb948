//! Decoding by a setting that does not change: what policies have to beat.

use ltd_contenders::Fixed;
use ltd_engine::{Controller, Copying, Static, WholeBeam};
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

/// A setting that does not change, as a comparison keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StaticEntrant {
    #[serde(flatten)]
    pub(crate) setting: FixedSetting,
    /// Whether its levels expand all of the beam, as EAGLE-3 drafts.
    pub(crate) whole_beam: bool,
}

impl StaticEntrant {
    pub(crate) fn controller(self) -> Box<dyn Controller> {
        let FixedSetting { depth, size, copies } = self.setting;
        let trees = WholeBeam(Static { depth, size });
        match copies {
            _ if !self.whole_beam => self.setting.controller(),
            Some(rule) => Box::new(Copying { rule, merged: None, trees }),
            None => Box::new(trees),
        }
    }
}

impl From<Fixed> for StaticEntrant {
    fn from(Fixed { trees: WholeBeam(Static { depth, size }), copies }: Fixed) -> Self {
        Self { setting: FixedSetting { depth, size, copies }, whole_beam: true }
    }
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
