//! The three decisions as they stand: policies, or constants where nothing was learned yet.

use std::path::Path;

use ltd_engine::{Controller, Learned};
use ltd_policy::{
    Choice, ChoiceEntry, FrozenPolicy, Manifest, Policy, PolicyEntry, PolicyKind, SourceChoice, SourceEntry,
    write_atomically,
};

use crate::evaluate::Measurement;
use crate::run::StageFolder;
use crate::{Error, Result};
use ltd_run::config::{Counterpart, StaticSetting};

/// How depth, size and source are decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    pub(crate) depth: Choice,
    pub(crate) size: Choice,
    pub(crate) source: SourceChoice,
}

impl Pair {
    pub(crate) fn constant(setting: StaticSetting) -> Self {
        Self {
            depth: Choice::Constant(setting.depth),
            size: Choice::Constant(setting.size),
            source: SourceChoice::Trees,
        }
    }

    /// The pair that a finished stage left.
    pub(crate) fn load(stage: &StageFolder) -> Result<Self> {
        let manifest = Manifest::load(&stage.manifest())?;
        match manifest.load_policy(stage.path())? {
            Policy::Pair { depth, size, source } => Ok(Self { depth, size, source }),
            Policy::Factored(_) => {
                let problem = "its policy is factored, expected a pair".to_owned();
                Err(Error::Checkpoint { path: stage.manifest(), problem })
            }
        }
    }

    /// The same with the constant that a policy learns against, if nothing was learned in its place
    /// yet.
    pub(crate) fn against(&self, counterpart: Counterpart) -> Self {
        match (counterpart, &self.size) {
            (Counterpart::FixedSize(size), Choice::Constant(_)) => {
                Self { size: Choice::Constant(size), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The same with one policy replaced.
    pub(crate) fn with(&self, policy: FrozenPolicy) -> Self {
        match policy.kind() {
            PolicyKind::Depth => Self { depth: Choice::Learned(policy), ..self.clone() },
            PolicyKind::Size => Self { size: Choice::Learned(policy), ..self.clone() },
            PolicyKind::Source => Self { source: SourceChoice::Learned(policy), ..self.clone() },
        }
    }

    pub(crate) fn controller(&self) -> Box<dyn Controller> {
        let learned = Learned::new(&self.depth, &self.size, &self.source);
        Box::new(learned.expect("invariant: policies are where their kind belongs"))
    }

    /// Whether any decision is one of a policy.
    pub(crate) fn learns(&self) -> bool {
        let kinds = [PolicyKind::Depth, PolicyKind::Size, PolicyKind::Source];
        kinds.into_iter().any(|kind| self.learned(kind).is_some())
    }

    /// The policy of a kind, if one was learned.
    pub(crate) fn learned(&self, kind: PolicyKind) -> Option<&FrozenPolicy> {
        let choice = match kind {
            PolicyKind::Depth => &self.depth,
            PolicyKind::Size => &self.size,
            PolicyKind::Source => {
                return match &self.source {
                    SourceChoice::Learned(policy) => Some(policy),
                    SourceChoice::Trees | SourceChoice::Rule(_) => None,
                };
            }
        };
        match choice {
            Choice::Learned(policy) => Some(policy),
            Choice::Constant(_) => None,
        }
    }

    /// Writes the policies into a stage's folder and returns their manifest entry.
    pub(crate) fn save(&self, folder: &StageFolder, measured: &Measurement) -> Result<PolicyEntry> {
        let total = measured.total();
        let depth = save(&self.depth, PolicyKind::Depth, total.depths.len() <= 1, folder.path())?;
        let size = save(&self.size, PolicyKind::Size, total.requested_sizes.len() <= 1, folder.path())?;
        let source = match &self.source {
            SourceChoice::Trees => SourceEntry::Trees,
            SourceChoice::Rule(rule) => SourceEntry::Rule(*rule),
            SourceChoice::Learned(policy) => {
                let file = write(policy, PolicyKind::Source, folder.path())?;
                let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
                SourceEntry::Learned { file, layout, actions }
            }
        };
        Ok(PolicyEntry::Pair { depth, size, source })
    }
}

fn save(choice: &Choice, kind: PolicyKind, is_constant: bool, folder: &Path) -> Result<ChoiceEntry> {
    Ok(match choice {
        Choice::Constant(value) => ChoiceEntry::Constant { value: *value },
        Choice::Learned(policy) => {
            let file = write(policy, kind, folder)?;
            let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
            ChoiceEntry::Learned { file, layout, actions, is_constant }
        }
    })
}

/// Writes a policy into a stage's folder and returns the file's name.
fn write(policy: &FrozenPolicy, kind: PolicyKind, folder: &Path) -> Result<String> {
    let file = StageFolder::policy_name(kind);
    write_atomically(&folder.join(&file), &policy.to_bytes())?;
    Ok(file)
}
