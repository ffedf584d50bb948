//! What is deployed: a folder with a manifest, the policy's files, and copies in other forms.
//!
//! ```no_run
//! use ltd_policy::package::{Policy, PolicyPackage};
//!
//! let package = PolicyPackage::load("policies".as_ref())?;
//! if let Some(fallback) = &package.manifest.fallback {
//!     println!("depth {}, size {}: {}", fallback.depth, fallback.size, fallback.reason);
//! } else if let Policy::Factored(factored) = &package.policy {
//!     println!("costs of {}", factored.latency.identity.machine);
//! }
//! # Ok::<(), ltd_policy::Error>(())
//! ```

mod manifest;

use std::path::Path;
use std::sync::Arc;

use crate::action::PolicyKind;
use crate::conditions::Conditions;
use crate::factored::{Factored, FactoredRule, FactoredSource};
use crate::files::sha256_hex;
use crate::latency::LatencyTable;
use crate::models::{ModelIdentity, Models};
use crate::network::{Actions, Frozen, FrozenPolicy, Outputs};
use crate::observation::{ObservationLayout, Source};
use crate::official;
use crate::source::CopyRule;
use crate::tokens::TokenRecord;
use crate::{Error, Result};

pub use manifest::{
    ChoiceEntry, Compat, Expected, FactoredSourceEntry, Fallback, MANIFEST_FILE, Manifest, PolicyEntry,
    SourceEntry, TOKENS_FILE,
};

/// How one of the two decisions is made, ready to use.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a program has few, and hands them around by reference")]
pub enum Choice {
    /// By a policy.
    Learned(FrozenPolicy),
    /// By a constant draft depth or verification size.
    Constant(usize),
}

impl Choice {
    /// The deepest draft that a choice of the depth may ask for.
    fn deepest(&self) -> usize {
        match self {
            Self::Constant(depth) => *depth,
            Self::Learned(policy) => match policy.actions() {
                Actions::Depth(actions) => actions.max_depth,
                Actions::Size(_) | Actions::Source(_) => 0,
            },
        }
    }
}

/// How a pair's cycles find what to draft from, ready to use.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a program has few, and hands them around by reference")]
pub enum SourceChoice {
    /// The draft model, always.
    #[default]
    Trees,
    /// By a rule.
    Rule(CopyRule),
    /// By a policy.
    Learned(FrozenPolicy),
}

impl From<FrozenPolicy> for Choice {
    fn from(policy: FrozenPolicy) -> Self {
        Self::Learned(policy)
    }
}

/// How the decisions are made, ready to use.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// By one policy each.
    Pair {
        /// When to stop drafting.
        depth: Choice,
        /// How many candidates to verify.
        size: Choice,
        /// What to draft from.
        source: SourceChoice,
    },
    /// Both by `1 + E[accepted] - lambda * T`.
    Factored(Factored),
}

impl Policy {
    /// Lengths of the chains that it may copy.
    pub fn chains(&self) -> Vec<usize> {
        match self {
            Self::Pair { source: SourceChoice::Learned(policy), .. } => match policy.actions() {
                Actions::Source(actions) => actions.chains.clone(),
                Actions::Depth(_) | Actions::Size(_) => Vec::new(),
            },
            Self::Pair { source: SourceChoice::Rule(rule), .. } => vec![rule.chain],
            Self::Pair { source: SourceChoice::Trees, .. } => Vec::new(),
            Self::Factored(factored) => {
                let source = factored.source.as_ref();
                source.map(|source| source.predictor.actions().source.chains.clone()).unwrap_or_default()
            }
        }
    }

    /// Whether it may merge trees with chains.
    pub fn merges(&self) -> bool {
        match self {
            Self::Pair { source: SourceChoice::Learned(policy), .. } => {
                matches!(policy.actions(), Actions::Source(actions) if actions.merged.is_some())
            }
            Self::Pair { .. } => false,
            Self::Factored(factored) => factored
                .source
                .as_ref()
                .is_some_and(|source| source.predictor.actions().source.merged.is_some()),
        }
    }

    /// The deepest draft that the policy may ask for.
    pub fn deepest(&self) -> usize {
        match self {
            Self::Pair { depth, .. } => depth.deepest(),
            Self::Factored(factored) => factored.predictor.actions().depth.max_depth,
        }
    }
}

/// A loaded and checked package.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyPackage {
    /// Its manifest.
    pub manifest: Manifest,
    /// What decides, unless the manifest names a fallback.
    pub policy: Policy,
}

impl Manifest {
    /// The policy that the manifest describes, read from `folder` and checked against it.
    pub fn load_policy(&self, folder: &Path) -> Result<Policy> {
        self.check_compat(folder)?;
        match &self.policy {
            PolicyEntry::Pair { depth, size, source } => self.load_pair(depth, size, source, folder),
            PolicyEntry::Factored {
                file,
                layout,
                actions,
                latency_table,
                tokens_per_second,
                margin,
                source,
            } => {
                let predictor = self.load_network(&folder.join(file), layout, actions)?;
                let path = folder.join(latency_table);
                let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
                let found = sha256_hex(&bytes);
                if self.latency_table_sha256.as_ref() != Some(&found) {
                    let expected = self.latency_table_sha256.clone().unwrap_or("null".to_owned());
                    return Err(Error::Hash { path, expected, found });
                }
                let latency = LatencyTable::from_json(&String::from_utf8_lossy(&bytes), &path)?;
                let source = source.as_ref().map(|source| {
                    let FactoredSourceEntry {
                        file,
                        layout,
                        outcomes,
                        margin,
                        merged_margin,
                        caution,
                        tokens,
                    } = source;
                    let predictor = self.load_network(&folder.join(file), layout, outcomes)?;
                    let tokens = tokens.as_ref().map(|file| TokenRecord::load(&folder.join(file)));
                    Ok::<_, Error>(FactoredSource {
                        predictor,
                        margin: *margin,
                        merged_margin: *merged_margin,
                        caution: *caution,
                        tokens: tokens.transpose()?.map(Arc::new),
                    })
                });
                let factored = Factored {
                    predictor,
                    latency,
                    rule: FactoredRule { tokens_per_second: *tokens_per_second, margin: *margin },
                    source: source.transpose()?,
                };
                let problems = factored.problems(self);
                if problems.is_empty() {
                    Ok(Policy::Factored(factored))
                } else {
                    Err(Error::LatencyTable { path, problems: problems.join("; ") })
                }
            }
        }
    }

    /// The layouts and tables of a package are all another code's, or none is.
    fn check_compat(&self, folder: &Path) -> Result<()> {
        let (networks, trees) = match &self.policy {
            PolicyEntry::Pair { depth, size, source } => {
                let networks = [("depth", depth.network()), ("size", size.network())];
                (networks.to_vec(), *source == SourceEntry::Trees)
            }
            PolicyEntry::Factored { layout, .. } => (vec![("factored", Some((layout, None)))], true),
        };
        for (name, network) in networks {
            let Some((layout, actions)) = network else { continue };
            let own = actions.and_then(|actions| official::of_kind(actions.kind()));
            let published = own.is_some_and(|(own, table)| own == *layout && Some(&table) == actions);
            let what = format!("layout and actions of {name}");
            match self.compat {
                Some(Compat::Official) if !published => {
                    let expected = "those of the published code (compat is `official`)";
                    let found = format!("others (`{}`)", layout.name);
                    return Err(Error::mismatch(folder, what, expected, found));
                }
                None if published => {
                    let expected = "others than the published code's (compat is null)";
                    return Err(Error::mismatch(folder, what, expected, format!("`{}`", layout.name)));
                }
                Some(Compat::Official) | None => {}
            }
        }
        if self.compat.is_some() && !trees {
            return Err(Error::mismatch(folder, "source", "`trees` (compat is `official`)", "another"));
        }
        Ok(())
    }

    fn load_pair(
        &self,
        depth: &ChoiceEntry,
        size: &ChoiceEntry,
        source: &SourceEntry,
        folder: &Path,
    ) -> Result<Policy> {
        let depth = self.load_choice(depth, PolicyKind::Depth, folder)?;
        let size = self.load_choice(size, PolicyKind::Size, folder)?;
        if let Choice::Learned(policy) = &size {
            let deepest = depth.deepest();
            let cap = policy.layout().depth_cap;
            if deepest > cap {
                let expected = format!("at least {deepest}, as deep as the trees get");
                return Err(Error::mismatch(folder, "depth cap of the size policy", expected, cap));
            }
        }
        let source = self.load_source(source, folder)?;
        Ok(Policy::Pair { depth, size, source })
    }

    fn load_source(&self, entry: &SourceEntry, folder: &Path) -> Result<SourceChoice> {
        Ok(match entry {
            SourceEntry::Trees => SourceChoice::Trees,
            SourceEntry::Rule(rule) => {
                check_rule(rule, folder, "source.rule")?;
                SourceChoice::Rule(*rule)
            }
            SourceEntry::Learned { file, layout, actions } => {
                let policy = self.load_kind(file, layout, actions, PolicyKind::Source, folder)?;
                if layout.shows(Source::Trust) {
                    let expected = "one without trust, which only a factored policy knows";
                    return Err(Error::mismatch(&folder.join(file), "layout", expected, &layout.name));
                }
                SourceChoice::Learned(policy)
            }
        })
    }

    fn load_choice(&self, entry: &ChoiceEntry, kind: PolicyKind, folder: &Path) -> Result<Choice> {
        let (file, layout, actions) = match entry {
            ChoiceEntry::Constant { value } => return Ok(Choice::Constant(*value)),
            ChoiceEntry::Learned { file, layout, actions, .. } => (file, layout, actions),
        };
        Ok(Choice::Learned(self.load_kind(file, layout, actions, kind, folder)?))
    }

    fn load_kind(
        &self,
        file: &str,
        layout: &ObservationLayout,
        actions: &Actions,
        kind: PolicyKind,
        folder: &Path,
    ) -> Result<FrozenPolicy> {
        let path = folder.join(file);
        let policy: FrozenPolicy = self.load_network(&path, layout, actions)?;
        if policy.kind() != kind {
            return Err(Error::mismatch(&path, "kind of the policy", kind, policy.kind()));
        }
        Ok(policy)
    }

    fn load_network<O: Outputs>(
        &self,
        path: &Path,
        layout: &ObservationLayout,
        actions: &O,
    ) -> Result<Frozen<O>> {
        let network = Frozen::<O>::load(path)?;
        if network.layout() != layout || network.actions() != actions {
            return Err(Error::mismatch(path, "layout and actions", "those of the manifest", "others"));
        }
        let found = layout.beam_width;
        if found != self.beam_width {
            return Err(Error::mismatch(path, "beam width of the layout", self.beam_width, found));
        }
        Ok(network)
    }

    /// A fallback must be possible too.
    fn check_fallback(&self, path: &Path) -> Result<()> {
        let Some(fallback) = &self.fallback else { return Ok(()) };
        if fallback.depth > self.depth_cap {
            let expected = format!("at most depth_cap = {}", self.depth_cap);
            return Err(Error::mismatch(path, "fallback.depth", expected, fallback.depth));
        }
        if fallback.size == 0 {
            return Err(Error::mismatch(path, "fallback.size", "at least 1", 0));
        }
        fallback.copies.as_ref().map_or(Ok(()), |rule| check_rule(rule, path, "fallback.copies"))
    }
}

fn check_rule(rule: &CopyRule, path: &Path, name: &str) -> Result<()> {
    match rule.problem() {
        None => Ok(()),
        Some((field, possible, found)) => {
            Err(Error::mismatch(path, format!("{name}.{field}"), format!("{possible:?}"), found))
        }
    }
}

impl Factored {
    /// Why the table is not one for this package: other models, another beam width, sizes that were
    /// not measured.
    fn problems(&self, manifest: &Manifest) -> Vec<String> {
        let mut problems = Vec::new();
        let identity = &self.latency.identity;
        let mut expect = |field: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            let (expected, found) = (expected.to_string(), found.to_string());
            if expected != found {
                problems.push(format!("identity.{field}: is {found}, but the package is for {expected}"));
            }
        };
        expect("target", &manifest.target.sha256, &identity.target);
        expect("draft", &manifest.draft.sha256, &identity.draft);
        expect("beam_width", &manifest.beam_width, &identity.beam_width);
        let actions = self.predictor.actions();
        // Context lengths beyond the table cost what the longest measured one does.
        problems.extend(self.latency.covers(&actions.depth, &actions.size, 0));
        if let Some(source) = &self.source {
            let outcomes = source.predictor.actions();
            problems.extend(self.latency.covers(&outcomes.trees.depth, &outcomes.trees.size, 0));
            if outcomes.source.merged.is_some() && outcomes.trees != *actions {
                // Of merged trees the source decides depth and size.
                problems.push("outcomes.trees: are others than the policy's own".to_owned());
            }
            let longest = outcomes.source.chains.last().copied().unwrap_or_default();
            let measured = self.latency.verify.counts().last().copied().unwrap_or_default();
            if longest > measured {
                problems.push(format!(
                    "verify: chains of {longest} tokens are copied, up to {measured} measured"
                ));
            }
        }
        problems.extend(self.rule_problem());
        problems
    }
}

impl PolicyPackage {
    /// Loads a package: version, hashes, shapes and tables are checked.
    pub fn load(folder: &Path) -> Result<Self> {
        let manifest_path = folder.join(MANIFEST_FILE);
        if !manifest_path.is_file() && folder.exists() {
            let found = if folder.is_dir() {
                format!("a folder without {MANIFEST_FILE}")
            } else {
                "a file".to_owned()
            };
            return Err(Error::mismatch(folder, "it", "a policy package (ltd-export makes them)", found));
        }
        let manifest = Manifest::load(&manifest_path)?;
        manifest.check_fallback(&manifest_path)?;
        if let Some(file) = manifest.policy_files().iter().find(|file| !manifest.files.contains_key(**file)) {
            return Err(Error::mismatch(&manifest_path, "files", format!("a hash of {file}"), "none"));
        }
        for (name, expected) in &manifest.files {
            let path = folder.join(name);
            let found = sha256_hex(&std::fs::read(&path).map_err(Error::io(&path))?);
            if found != *expected {
                return Err(Error::Hash { path, expected: expected.clone(), found });
            }
        }
        let policy = manifest.load_policy(folder)?;
        Ok(Self { manifest, policy })
    }

    /// Fails unless the package, from `folder`, can steer what `owner` runs: trees of such a width
    /// and depth, of its own models. Where none are given, as an experiment, it may be any.
    pub fn check_steers(
        &self,
        folder: &Path,
        owner: &str,
        models: Option<&Models>,
        beam_width: usize,
        max_depth: usize,
    ) -> Result<()> {
        let own = self.manifest.models();
        own.check(folder, owner, models.unwrap_or(&Models { beam_width, ..own.clone() }))?;
        let deepest = self.policy.deepest();
        if deepest > max_depth {
            let expected = format!("at most {max_depth}, as deep as {owner} drafts");
            return Err(Error::mismatch(folder, "deepest draft of its policies", expected, deepest));
        }
        Ok(())
    }

    /// The deepest draft that it may ask for: that of its fallback if it names one, else of its
    /// policy.
    pub fn deepest(&self) -> usize {
        self.manifest.fallback.as_ref().map_or_else(|| self.policy.deepest(), |fallback| fallback.depth)
    }

    /// Fails unless the package, from `folder`, is of models with these SHA-256 sums; none is any.
    pub fn check_models(&self, folder: &Path, target: Option<&str>, draft: Option<&str>) -> Result<()> {
        let own = self.manifest.models();
        let mut theirs = own.clone();
        for (what, identity, sum) in
            [("target", &mut theirs.target, target), ("draft", &mut theirs.draft, draft)]
        {
            let Some(sum) = sum else { continue };
            if sum.len() != 64 || !sum.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                let what = format!("sum of the {what} to compare with");
                return Err(Error::mismatch(folder, what, "64 hexadecimal digits", format!("`{sum}`")));
            }
            let sum = sum.to_ascii_lowercase();
            if sum != identity.sha256 {
                *identity = ModelIdentity { name: String::new(), sha256: sum };
            }
        }
        own.check(folder, "this program", &theirs)
    }

    /// What the decisions were made for: how tokens were chosen in training, and the machine of
    /// training or, for a policy that weighs measured times, of these.
    pub fn conditions(&self) -> Conditions {
        let Manifest { sampling, device, dtype, threads, .. } = self.manifest.clone();
        match &self.policy {
            Policy::Pair { .. } => Conditions { sampling, device: Some(device), dtype: Some(dtype), threads },
            Policy::Factored(factored) => Conditions { sampling, ..factored.latency.identity.conditions() },
        }
    }

    /// What to tell whoever lets the policy decide under other conditions than it was made for;
    /// nothing if none is known to be other.
    pub fn warning(&self, here: &Conditions) -> Option<String> {
        let differences = self.conditions().differences(here);
        (!differences.is_empty()).then(|| {
            format!("the policy was made for {}: a constant may be better here", differences.join(", "))
        })
    }

    /// The package with a factored policy for another machine: another table, a rule that suits it,
    /// and the same predictor or one that learned from the same trace.
    pub fn retargeted(&self, factored: Factored) -> Result<Self> {
        let refused = |problem: String| Error::Retarget { problem };
        let mut manifest = self.manifest.clone();
        let mut problems = factored.latency.problems();
        problems.extend(factored.problems(&manifest));
        if !problems.is_empty() {
            return Err(refused(problems.join("; ")));
        }
        let sha256 = factored.latency.sha256();
        let PolicyEntry::Factored { file, layout, actions, latency_table, tokens_per_second, margin, source } =
            &mut manifest.policy
        else {
            return Err(refused("it holds a pair, which has learned the times of its machine".to_owned()));
        };
        (*tokens_per_second, *margin) = (factored.rule.tokens_per_second, factored.rule.margin);
        (*layout, *actions) = (factored.predictor.layout().clone(), factored.predictor.actions().clone());
        manifest.files.insert(latency_table.clone(), sha256.clone());
        manifest.files.insert(file.clone(), sha256_hex(&factored.predictor.to_bytes()));
        if source.is_some() != factored.source.is_some() {
            return Err(refused("what it drafts from is decided in another way".to_owned()));
        }
        if let (Some(entry), Some(source)) = (source, &factored.source) {
            entry.layout = source.predictor.layout().clone();
            entry.outcomes = source.predictor.actions().clone();
            (entry.margin, entry.merged_margin) = (source.margin, source.merged_margin);
            entry.caution = source.caution;
            if let Some(tokens) = &source.tokens {
                let file = entry.tokens.get_or_insert_with(|| TOKENS_FILE.to_owned());
                manifest.files.insert(file.clone(), sha256_hex(tokens.to_json().as_bytes()));
            } else if let Some(file) = entry.tokens.take() {
                manifest.files.remove(&file);
            }
            manifest.files.insert(entry.file.clone(), sha256_hex(&source.predictor.to_bytes()));
        }
        manifest.latency_table_sha256 = Some(sha256);
        manifest.move_to(&factored.latency.identity);
        Ok(Self { manifest, policy: Policy::Factored(factored) })
    }
}
