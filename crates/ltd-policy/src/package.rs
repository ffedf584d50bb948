//! What is deployed: a folder with a manifest and one file per learned policy.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::frozen::{Actions, FrozenPolicy, PolicyKind};
use crate::observation::ObservationLayout;
use crate::{Error, Result};

/// Version of the package.
const FORMAT_VERSION: u32 = 1;
/// Name of the manifest in a package.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Everything a server must know of a package, and everything a person should.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the package format.
    pub format_version: u32,
    /// Program and version that trained the policies.
    pub created_by: String,
    /// Run and stage they come from.
    pub run: String,
    /// Name of the stage.
    pub stage: String,
    /// Seed of the run.
    pub seed: u64,
    /// `null`: the layouts and cadence below hold. A name would ask for another code's quirks.
    pub compat: Option<String>,
    /// Candidates kept per level, `W`, in training.
    pub beam_width: usize,
    /// Deepest draft in training.
    pub depth_cap: usize,
    /// The target.
    pub target: ModelIdentity,
    /// The draft.
    pub draft: ModelIdentity,
    /// Number type of both models in training.
    pub dtype: String,
    /// Device and machine of training.
    pub device: String,
    /// SHA-256 of the latency table that was trained on; `null` if the policies were trained on live cycles.
    pub latency_table_sha256: Option<String>,
    /// Reward that was maximised.
    pub objective: String,
    /// Throughput measured on validation prompts after the stage.
    pub expected: Option<Expected>,
    /// Share of those cycles that accepted at least 1, 2, ... draft tokens.
    pub acceptance_per_depth: Vec<f64>,
    /// How depth is decided.
    pub depth: PolicyEntry,
    /// How size is decided.
    pub size: PolicyEntry,
    /// SHA-256 of every other file of the package.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Which model a policy was trained with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Folder name.
    pub name: String,
    /// SHA-256 over its configuration and weights.
    pub sha256: String,
}

/// A measured throughput with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// `sum(tau) / sum(T)`.
    pub tokens_per_second: f64,
    /// Lower end of the 95 % interval (bootstrap over prompts).
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Prompts measured.
    pub prompts: usize,
}

/// How one of the two decisions is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyEntry {
    /// By a policy.
    Learned {
        /// Its file in the package.
        file: String,
        /// What it sees.
        layout: ObservationLayout,
        /// What it chooses among, and when it is asked.
        actions: Actions,
        /// Whether it chose one and the same action throughout the validation: then a constant would do.
        is_constant: bool,
    },
    /// By a constant.
    Constant {
        /// Draft depth or verification size.
        value: usize,
    },
}

/// How one of the two decisions is made, ready to use.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// By a policy.
    Learned(FrozenPolicy),
    /// By a constant draft depth or verification size.
    Constant(usize),
}

impl From<FrozenPolicy> for Choice {
    fn from(policy: FrozenPolicy) -> Self {
        Self::Learned(policy)
    }
}

/// A loaded and checked package.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyPackage {
    /// Its manifest.
    pub manifest: Manifest,
    /// When to stop drafting.
    pub depth: Choice,
    /// How many candidates to verify.
    pub size: Choice,
}

impl Manifest {
    /// Version that this program writes and reads.
    pub const VERSION: u32 = FORMAT_VERSION;

    /// Reads `manifest.json` of a folder (or a run's `stage.json`, which has the same form without hashes).
    pub fn load(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let json = |source| Error::Json { path: path.to_owned(), what: "manifest", source };
        let Version { format_version: found } = serde_json::from_str(&text).map_err(json)?;
        if found != FORMAT_VERSION {
            return Err(Error::Version { path: path.to_owned(), expected: FORMAT_VERSION, found });
        }
        serde_json::from_str(&text).map_err(json)
    }

    /// The manifest as written to disk.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("invariant: the manifest is plain data") + "\n"
    }

    /// The policies that the manifest names, read from `folder` and checked against it.
    pub fn load_policies(&self, folder: &Path) -> Result<(Choice, Choice)> {
        let depth = self.load_policy(&self.depth, PolicyKind::Depth, folder)?;
        let size = self.load_policy(&self.size, PolicyKind::Size, folder)?;
        if let Choice::Learned(policy) = &size {
            let deepest = match &depth {
                Choice::Constant(depth) => *depth,
                Choice::Learned(policy) => match policy.actions() {
                    Actions::Depth(actions) => actions.max_depth,
                    Actions::Size(_) => 0,
                },
            };
            let cap = policy.layout().depth_cap;
            if deepest > cap {
                let expected = format!("at least {deepest}, as deep as the trees get");
                return Err(Error::mismatch(folder, "depth cap of the size policy", expected, cap));
            }
        }
        Ok((depth, size))
    }

    fn load_policy(&self, entry: &PolicyEntry, kind: PolicyKind, folder: &Path) -> Result<Choice> {
        let (file, layout, actions) = match entry {
            PolicyEntry::Constant { value } => return Ok(Choice::Constant(*value)),
            PolicyEntry::Learned { file, layout, actions, .. } => (file, layout, actions),
        };
        let path = folder.join(file);
        let policy = FrozenPolicy::load(&path)?;
        if policy.kind() != kind {
            return Err(Error::mismatch(&path, "kind of the policy", kind, policy.kind()));
        }
        if policy.layout() != layout || policy.actions() != actions {
            return Err(Error::mismatch(&path, "layout and actions", "those of the manifest", "others"));
        }
        if layout.beam_width != self.beam_width {
            return Err(Error::mismatch(
                &path,
                "beam width of the layout",
                self.beam_width,
                layout.beam_width,
            ));
        }
        Ok(Choice::Learned(policy))
    }
}

impl PolicyPackage {
    /// Loads a package: version, hashes, shapes and tables are checked.
    pub fn load(folder: &Path) -> Result<Self> {
        let manifest_path = folder.join(MANIFEST_FILE);
        let manifest = Manifest::load(&manifest_path)?;
        for entry in [&manifest.depth, &manifest.size] {
            if let PolicyEntry::Learned { file, .. } = entry
                && !manifest.files.contains_key(file)
            {
                return Err(Error::mismatch(&manifest_path, "files", format!("a hash of {file}"), "none"));
            }
        }
        for (name, expected) in &manifest.files {
            let path = folder.join(name);
            let found = sha256_hex(&std::fs::read(&path).map_err(Error::io(&path))?);
            if found != *expected {
                return Err(Error::Hash { path, expected: expected.clone(), found });
            }
        }
        let (depth, size) = manifest.load_policies(folder)?;
        Ok(Self { manifest, depth, size })
    }
}

/// SHA-256 as lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
