//! Policies of the code published with the paper, as a package that does what they did there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ltd_policy::{
    Actions, Choice, ChoiceEntry, Compat, CycleSummary, DepthActions, FrozenPolicy, Manifest, Models,
    ObservationLayout, Policy, PolicyEntry, PolicyKind, PolicyPackage, SamplingParams, SizeActions,
    SourceChoice, SourceEntry, official, tree_candidates,
};

use crate::forms::sb3::{Saved, read};
use crate::{Error, Result};

/// What a decision of an imported package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// A policy that stable-baselines3 saved.
    Archive(PathBuf),
    /// Always this draft depth or verification size.
    Constant(usize),
}

impl std::str::FromStr for Imported {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Other numbers are slips, and no archive has such a name.
        let is_number = text.parse::<f64>().is_ok();
        match text.parse() {
            Ok(value) => Ok(Self::Constant(value)),
            Err(_) if is_number || text.trim().is_empty() => Err(format!(
                "expected an archive, or a whole number: a depth from 1 to {}, a size from 1 to {}",
                official::DEPTH_CAP,
                ltd_policy::MAX_SIZE
            )),
            Err(_) => Ok(Self::Archive(text.into())),
        }
    }
}

/// Probe observations of an imported policy.
const PROBES: usize = 8;

/// The package of `depth` and `size`, for `models`.
///
/// # Errors
/// If an archive is damaged or holds anything else than such a policy, if both decisions are
/// constants, or if the models draft trees of another width.
pub fn import(depth: &Imported, size: &Imported, models: Models) -> Result<PolicyPackage> {
    if models.beam_width != official::BEAM_WIDTH {
        let (expected, found) = (official::BEAM_WIDTH, models.beam_width);
        return Err(Error::Import(format!(
            "--config: engine.beam_width is {found}, expected {expected}: what the published policies see"
        )));
    }
    let limits =
        [(PolicyKind::Depth, depth, official::DEPTH_CAP), (PolicyKind::Size, size, ltd_policy::MAX_SIZE)];
    for (kind, imported, limit) in limits {
        if let Imported::Constant(value) = imported
            && !(1..=limit).contains(value)
        {
            return Err(Error::Import(format!("--{kind} is {value}, expected 1 to {limit}")));
        }
    }
    let mut archives = Vec::new();
    let mut seed = 0;
    let mut version = None;
    let mut take = |kind, imported: &Imported| -> Result<(Choice, ChoiceEntry)> {
        let path = match imported {
            Imported::Constant(value) => {
                return Ok((Choice::Constant(*value), ChoiceEntry::Constant { value: *value }));
            }
            Imported::Archive(path) => path,
        };
        let saved = read(path)?;
        archives.push(path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned());
        seed = saved.seed.unwrap_or(seed);
        version = saved.version.clone().or(version.take());
        let policy = policy(kind, saved, path)?;
        let entry = ChoiceEntry::Learned {
            file: format!("{kind}.safetensors"),
            layout: policy.layout().clone(),
            actions: policy.actions().clone(),
            is_constant: false,
        };
        Ok((Choice::Learned(policy), entry))
    };
    let (depth, depth_entry) = take(PolicyKind::Depth, depth)?;
    let (size, size_entry) = take(PolicyKind::Size, size)?;
    if archives.is_empty() {
        let problem = "--depth and --size are both numbers, expected an archive for one of them at least";
        return Err(Error::Import(problem.to_owned()));
    }
    let manifest = Manifest {
        format_version: Manifest::VERSION,
        created_by: format!(
            "stable-baselines3 {}, imported by ltd-export {}",
            version.as_deref().unwrap_or("(version not noted)"),
            env!("CARGO_PKG_VERSION")
        ),
        run: archives.join(", "),
        stage: "imported".to_owned(),
        seed,
        compat: Some(Compat::Official),
        beam_width: models.beam_width,
        depth_cap: official::DEPTH_CAP,
        target: models.target,
        draft: models.draft,
        // An archive does not say what it was trained on. These are fixed in the published code.
        dtype: "f16".to_owned(),
        device: "cuda".to_owned(),
        sampling: Some(SamplingParams::default()),
        objective: "throughput".to_owned(),
        threads: None,
        latency_table_sha256: None,
        expected: None,
        acceptance_per_depth: Vec::new(),
        policy: PolicyEntry::Pair { depth: depth_entry, size: size_entry, source: SourceEntry::Trees },
        fallback: None,
        files: BTreeMap::new(),
    };
    Ok(PolicyPackage { manifest, policy: Policy::Pair { depth, size, source: SourceChoice::Trees } })
}

/// The policy of a kind, of a network of the size that such policies have.
fn policy(kind: PolicyKind, saved: Saved, path: &Path) -> Result<FrozenPolicy> {
    let (layout, actions) = official::of_kind(kind).expect("invariant: a kind that is published");
    let expected = (layout.len(), actions.count());
    let found = (saved.mlp.inputs(), saved.mlp.outputs());
    if expected != found {
        let sizes = |(inputs, outputs)| format!("{inputs} numbers and {outputs} actions");
        let (sizes_expected, sizes_found) = (sizes(expected), sizes(found));
        let other = [PolicyKind::Depth, PolicyKind::Size].into_iter().find(|&other| {
            official::of_kind(other).is_some_and(|(layout, actions)| found == (layout.len(), actions.count()))
        });
        let of_other = other.map_or_else(String::new, |other| format!(" of a {other} policy"));
        return Err(Error::Import(format!(
            "--{kind} {}: its network has {sizes_found}{of_other}, expected {sizes_expected} of a {kind} policy",
            path.display()
        )));
    }
    let probes = probes(&layout, &actions);
    Ok(FrozenPolicy::new(layout, actions, saved.mlp, probes))
}

/// Observations of made-up trees: an archive has none, and copies of a network are checked on them.
fn probes(layout: &ObservationLayout, actions: &Actions) -> Vec<Vec<f32>> {
    let depth_actions = official::depth_actions();
    let depth = |probe: usize| match actions {
        Actions::Depth(DepthActions { min_depth, .. }) => min_depth + probe % 3 * depth_actions.decide_every,
        Actions::Size(SizeActions { .. }) | Actions::Source(_) => 1 + probe % official::DEPTH_CAP,
    };
    let observation = |probe: usize| {
        let draft_depth = depth(probe);
        let scores: Vec<f32> = (0..tree_candidates(layout.beam_width, draft_depth))
            .map(|candidate| {
                // Spread evenly, lower from level to level.
                let spread = ((candidate + 1) as f32 * (0.618 + probe as f32 * 0.1)).fract();
                -(candidate as f32 / 100.0) - 8.0 * spread
            })
            .collect();
        let mut observation = vec![0.0; layout.len()];
        let summary = CycleSummary {
            scores: &scores,
            beam_width: layout.beam_width,
            frontier: layout.beam_width,
            draft_depth,
            context_length: 100 + 177 * probe,
        };
        layout.write_into(&summary, &mut observation);
        observation
    };
    (0..PROBES).map(observation).collect()
}
