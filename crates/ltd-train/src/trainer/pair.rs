//! The two decisions as they stand: policies, or constants where nothing was learned yet.

use std::path::Path;

use ltd_engine::{Controller, Learned};
use ltd_policy::{Choice, ChoiceEntry, FrozenPolicy, Manifest, Policy, PolicyKind, write_atomically};

use crate::evaluate::Measurement;
use crate::run::StageFolder;
use crate::{Error, Result};
use ltd_run::config::{Counterpart, StaticSetting};

/// How depth and size are decided.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub(super) depth: Choice,
    pub(super) size: Choice,
}

impl Pair {
    pub(super) fn constant(setting: StaticSetting) -> Self {
        Self { depth: Choice::Constant(setting.depth), size: Choice::Constant(setting.size) }
    }

    /// The pair that a finished stage left.
    pub(super) fn load(stage: &StageFolder) -> Result<Self> {
        let manifest = Manifest::load(&stage.manifest())?;
        match manifest.load_policy(stage.path())? {
            Policy::Pair { depth, size } => Ok(Self { depth, size }),
            Policy::Factored(_) => {
                let problem = "its policy is factored, expected a pair".to_owned();
                Err(Error::Checkpoint { path: stage.manifest(), problem })
            }
        }
    }

    /// The same with the constant that a policy learns against, if nothing was learned in its place
    /// yet.
    pub(super) fn against(&self, counterpart: Counterpart) -> Self {
        match (counterpart, &self.size) {
            (Counterpart::FixedSize(size), Choice::Constant(_)) => {
                Self { size: Choice::Constant(size), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The same with one policy replaced.
    pub(super) fn with(&self, policy: FrozenPolicy) -> Self {
        match policy.kind() {
            PolicyKind::Depth => Self { depth: Choice::Learned(policy), ..self.clone() },
            PolicyKind::Size => Self { size: Choice::Learned(policy), ..self.clone() },
        }
    }

    pub(super) fn controller(&self) -> Box<dyn Controller> {
        let learned = Learned::new(&self.depth, &self.size);
        Box::new(learned.expect("invariant: policies are where their kind belongs"))
    }

    /// Writes the policies into a stage's folder and returns their manifest entries.
    pub(super) fn save(&self, folder: &StageFolder, measured: &Measurement) -> Result<[ChoiceEntry; 2]> {
        let total = measured.total();
        let depth = save(&self.depth, PolicyKind::Depth, total.depths.len() <= 1, folder.path())?;
        let size = save(&self.size, PolicyKind::Size, total.requested_sizes.len() <= 1, folder.path())?;
        Ok([depth, size])
    }
}

fn save(choice: &Choice, kind: PolicyKind, is_constant: bool, folder: &Path) -> Result<ChoiceEntry> {
    Ok(match choice {
        Choice::Constant(value) => ChoiceEntry::Constant { value: *value },
        Choice::Learned(policy) => {
            let file = StageFolder::policy_name(kind);
            write_atomically(&folder.join(&file), &policy.to_bytes())?;
            let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
            ChoiceEntry::Learned { file, layout, actions, is_constant }
        }
    })
}
