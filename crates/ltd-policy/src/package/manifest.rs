//! The manifest of a package: what was trained, on what, and what decides.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::factored::{FactoredActions, SourceOutcomes};
use crate::files::json_text;
use crate::latency::LatencyIdentity;
use crate::models::{ModelIdentity, Models};
use crate::network::Actions;
use crate::observation::ObservationLayout;
use crate::source::CopyRule;
use crate::{Error, Result, SamplingParams};

/// Name of the manifest in a package.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Name of the [record of tokens](crate::TokenRecord) in a package.
pub const TOKENS_FILE: &str = "tokens.json";

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
    /// The code whose quirks the policies need; `null` if they need none.
    pub compat: Option<Compat>,
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
    /// Threads of the CPU kernels in training; `null` if that was not recorded.
    #[serde(default)]
    pub threads: Option<usize>,
    /// How tokens were chosen in training and in what was measured; `null` if that was not
    /// recorded.
    #[serde(default)]
    pub sampling: Option<SamplingParams>,
    /// SHA-256 of the latency table: that of a factored policy, or the one that a pair was trained
    /// on; `null` if it was trained on live cycles.
    pub latency_table_sha256: Option<String>,
    /// Reward that was maximised.
    pub objective: String,
    /// Throughput measured on validation prompts after the stage.
    pub expected: Option<Expected>,
    /// Share of those cycles that accepted at least 1, 2, ... draft or copied tokens.
    pub acceptance_per_depth: Vec<f64>,
    /// How depth and size are decided.
    pub policy: PolicyEntry,
    /// What decides instead, if the policy is not worth its time; `null` if it is.
    pub fallback: Option<Fallback>,
    /// SHA-256 of every other file of the package.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Another code, whose policies a package may hold. Layouts and action tables say what it shows
/// them and when it asks; the name promises that they are that code's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The code published with the paper ([`crate::official`]).
    Official,
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

/// How the decisions are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyEntry {
    /// By one policy each.
    Pair {
        /// When to stop drafting.
        depth: ChoiceEntry,
        /// How many candidates to verify.
        size: ChoiceEntry,
        /// What to draft from.
        #[serde(default)]
        source: SourceEntry,
    },
    /// Both by `1 + E[accepted] - lambda * T`.
    Factored {
        /// The predictor's file in the package.
        file: String,
        /// What it sees.
        layout: ObservationLayout,
        /// Between what it decides.
        actions: FactoredActions,
        /// The latency table's file in the package.
        latency_table: String,
        /// What time is worth, `lambda`.
        tokens_per_second: f64,
        /// Tokens by which a deeper ending must be better.
        #[serde(default)]
        margin: f64,
        /// How it decides what to draft from; `null` if it always drafts trees.
        #[serde(default)]
        source: Option<FactoredSourceEntry>,
    },
}

/// How a pair's cycles find what to draft from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceEntry {
    /// The draft model, always.
    #[default]
    Trees,
    /// By a rule.
    Rule(CopyRule),
    /// By a policy.
    Learned {
        /// Its file in the package.
        file: String,
        /// What it sees.
        layout: ObservationLayout,
        /// What it chooses among.
        actions: Actions,
    },
}

/// How a factored policy decides what to draft from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactoredSourceEntry {
    /// The predictor's file in the package.
    pub file: String,
    /// What it sees.
    pub layout: ObservationLayout,
    /// Of what it predicts the outcome.
    pub outcomes: SourceOutcomes,
    /// Tokens by which a copy must be better than the best tree.
    pub margin: f64,
    /// The same of a merged tree.
    #[serde(default)]
    pub merged_margin: f64,
    /// Log-odds by which a copied token is taken to be less certain than predicted.
    #[serde(default)]
    pub caution: f64,
    /// The file of what recordings tell of tokens; `null` if the predictor does not see it.
    #[serde(default)]
    pub tokens: Option<String>,
}

/// A constant setting with why it is better than the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Draft forwards after the root expansion.
    pub depth: usize,
    /// Candidates to verify.
    pub size: usize,
    /// When to copy in place of drafting; `null` never does.
    #[serde(default)]
    pub copies: Option<CopyRule>,
    /// What was found, e.g. that no gain over the constant is predicted.
    pub reason: String,
}

/// The setting, in words.
impl std::fmt::Display for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "depth {} and size {}", self.depth, self.size)?;
        match &self.copies {
            Some(rule) => write!(f, ", copying {rule}"),
            None => Ok(()),
        }
    }
}

/// How one of the two decisions is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChoiceEntry {
    /// By a policy.
    Learned {
        /// Its file in the package.
        file: String,
        /// What it sees.
        layout: ObservationLayout,
        /// What it chooses among, and when it is asked.
        actions: Actions,
        /// Whether it chose one and the same action throughout the validation: then a constant
        /// would do.
        is_constant: bool,
    },
    /// By a constant.
    Constant {
        /// Draft depth or verification size.
        value: usize,
    },
}

impl Manifest {
    /// Version that this program writes. It also reads version 6, which did not know which tokens
    /// are safe to copy, 5, whose calibration did not know what the draft model thinks of a copy,
    /// 4, which did not know merged trees, 3, which knew trees only, 2, which did not say how
    /// tokens were chosen, and 1, which knew pairs only.
    pub const VERSION: u32 = 7;

    /// Reads `manifest.json` of a folder (or a run's `stage.json`, which has the same form without
    /// hashes).
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::files::read_text(path).map_err(Error::io(path))?;
        let json = |source| Error::Json { path: path.to_owned(), what: "manifest", source };
        // The version first: the rest may have another form in another version.
        let mut object: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let found = object.get("format_version").cloned().unwrap_or_default();
        match serde_json::from_value::<u32>(found).map_err(json)? {
            Self::VERSION => {}
            // What is new in versions 3 to 7 may be missing.
            2..=6 => _ = object.insert("format_version".to_owned(), json!(Self::VERSION)),
            1 => object = from_version_1(object),
            found => {
                let expected = format!("1 to {}", Self::VERSION);
                return Err(Error::Version { path: path.to_owned(), expected, found });
            }
        }
        if let Some(Value::String(found)) = object.get("compat")
            && found != "official"
        {
            let expected = "null or `official`: this program has no other code's quirks";
            return Err(Error::mismatch(path, "compat", expected, format_args!("`{found}`")));
        }
        serde_json::from_value(Value::Object(object)).map_err(json)
    }

    /// The models that the policies are of.
    pub fn models(&self) -> Models {
        let Self { target, draft, beam_width, .. } = self;
        Models { target: target.clone(), draft: draft.clone(), beam_width: *beam_width }
    }

    /// Notes that the policy was fitted to the costs of a machine: what was measured on another,
    /// throughput and fallback, does not hold there and is left out.
    pub fn move_to(&mut self, machine: &LatencyIdentity) {
        self.device = format!("{} ({})", machine.device, machine.machine);
        self.dtype.clone_from(&machine.dtype);
        self.threads = Some(machine.threads);
        (self.expected, self.fallback) = (None, None);
    }

    /// The manifest as written to disk.
    pub fn to_json(&self) -> String {
        json_text(self)
    }

    /// Files of the package that the policy consists of.
    pub fn policy_files(&self) -> Vec<&str> {
        match &self.policy {
            PolicyEntry::Pair { depth, size, source } => {
                let files = [depth, size].into_iter().filter_map(ChoiceEntry::file);
                files.chain(source.file()).collect()
            }
            PolicyEntry::Factored { file, latency_table, source, .. } => {
                let source = source.iter().flat_map(|FactoredSourceEntry { file, tokens, .. }| {
                    [Some(file.as_str()), tokens.as_deref()].into_iter().flatten()
                });
                [file.as_str(), latency_table].into_iter().chain(source).collect()
            }
        }
    }
}

impl ChoiceEntry {
    /// What its policy sees and chooses among, if there is one.
    pub(super) fn network(&self) -> Option<(&ObservationLayout, Option<&Actions>)> {
        match self {
            Self::Learned { layout, actions, .. } => Some((layout, Some(actions))),
            Self::Constant { .. } => None,
        }
    }

    fn file(&self) -> Option<&str> {
        match self {
            Self::Learned { file, .. } => Some(file),
            Self::Constant { .. } => None,
        }
    }
}

impl SourceEntry {
    fn file(&self) -> Option<&str> {
        match self {
            Self::Learned { file, .. } => Some(file),
            Self::Trees | Self::Rule(_) => None,
        }
    }
}

/// In version 1 the entries of the pair stood by themselves, and nothing was a fallback.
fn from_version_1(mut object: Map<String, Value>) -> Map<String, Value> {
    let mut pair = Map::new();
    for key in ["depth", "size"] {
        pair.extend(object.remove(key).map(|entry| (key.to_owned(), entry)));
    }
    object.insert("format_version".to_owned(), json!(Manifest::VERSION));
    object.insert("policy".to_owned(), json!({ "pair": pair }));
    object.insert("fallback".to_owned(), Value::Null);
    object
}
