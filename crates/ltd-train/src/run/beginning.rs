//! With what a run began: it goes on with the same, or not at all.

use ltd_engine::DtypeSetting;
use ltd_policy::ModelIdentity;
use serde::Deserialize;
use serde_json::Value;

use super::provenance::PromptHashes;
use super::{Provenance, RunFolder};
use crate::{Error, Result};
use ltd_run::config::TrainConfig;

/// What a run's record says of what it learns from and how.
#[derive(Debug, Deserialize)]
pub(crate) struct Beginning {
    target: ModelIdentity,
    draft: ModelIdentity,
    prompts: PromptHashes,
    eos: Vec<u32>,
    dtype: ChosenDtype,
    config: TrainConfig,
}

#[derive(Debug, Deserialize)]
struct ChosenDtype {
    chosen: DtypeSetting,
}

impl Beginning {
    /// Reads the record of a run.
    pub(crate) fn read(run: &RunFolder) -> Result<Self> {
        let path = run.provenance();
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        serde_json::from_str(&text).map_err(|error| {
            let file = path.file_name().unwrap_or_default().display();
            refuse(
                run,
                format!("{file} does not say what the run began with, so that it cannot go on: {error}"),
            )
        })
    }

    /// The configuration to go on with: what it says now, in the number type that the run has,
    /// unless a value that matters was changed. Says which others were.
    pub(crate) fn goes_on_with(
        &self,
        now: TrainConfig,
        run: &RunFolder,
    ) -> Result<(TrainConfig, Vec<String>)> {
        let json = |config: &TrainConfig| serde_json::to_value(config).expect("invariant: plain data");
        let mut changes = Vec::new();
        differences(&json(&self.config), &json(&now), "", &mut changes);
        let (minor, major): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| may_change(&change.path));
        let text = |changes: Vec<Change>| -> Vec<String> {
            let text = |Change { path, before, now }| {
                format!("{path}: was {before} when the run began, is {now} now")
            };
            changes.into_iter().map(text).collect()
        };
        if !major.is_empty() {
            return Err(refuse(run, text(major).join("; ")));
        }
        let mut config = now;
        if config.engine.dtype == DtypeSetting::Auto {
            config.engine.dtype = self.dtype.chosen;
        }
        Ok((config, text(minor)))
    }

    /// Fails unless models and prompts are those that the run began with.
    pub(crate) fn check(&self, now: &Provenance, config: &TrainConfig, run: &RunFolder) -> Result<()> {
        let fail = |problem| Err(refuse(run, problem));
        for (what, before, now) in [("target", &self.target, &now.target), ("draft", &self.draft, &now.draft)]
        {
            if before.sha256 != now.sha256 {
                return fail(format!(
                    "was begun with another {what}: {} (SHA-256 {}), now {} ({})",
                    before.name, before.sha256, now.name, now.sha256
                ));
            }
        }
        let sets = &config.prompts;
        for (name, set, before, now) in [
            ("train", &sets.train, &self.prompts.train, &now.prompts.train),
            ("validation", &sets.validation, &self.prompts.validation, &now.prompts.validation),
            ("evaluation", &sets.evaluation, &self.prompts.evaluation, &now.prompts.evaluation),
        ] {
            if before != now {
                return fail(format!(
                    "prompts.{name}: {} does not give the prompts that the run began with, so its questions or the \
                     chat template were changed: SHA-256 of their tokens was {before}, is {now} now",
                    set.file.display()
                ));
            }
        }
        if self.eos != now.eos {
            let (before, now) = (&self.eos, &now.eos);
            return fail(format!("was begun with the stop tokens {before:?}, the target's are {now:?} now"));
        }
        Ok(())
    }
}

fn refuse(run: &RunFolder, problem: String) -> Error {
    Error::RunFolder { path: run.path().to_owned(), problem }
}

/// A value of a configuration that is not what it was.
struct Change {
    path: String,
    before: Value,
    now: Value,
}

/// All values that differ, by the path of the innermost.
fn differences(before: &Value, now: &Value, path: &str, changes: &mut Vec<Change>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
            let value =
                |of: &serde_json::Map<String, Value>, key: &str| of.get(key).cloned().unwrap_or_default();
            for key in keys {
                differences(&value(before, key), &value(now, key), &below(key), changes);
            }
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            for (index, (before, now)) in before.iter().zip(now).enumerate() {
                differences(before, now, &below(&index.to_string()), changes);
            }
        }
        _ if before == now => {}
        _ => changes.push(Change { path: path.to_owned(), before: before.clone(), now: now.clone() }),
    }
}

/// Whether a run can go on with another value: how long it takes, and where things are whose
/// content is compared.
fn may_change(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    let place = matches!(path, "engine.target" | "engine.draft" | "replay.trace" | "replay.latency")
        || (path.starts_with("prompts.") && key == "file");
    place || path == "about" || matches!(key, "total_timesteps" | "max_minutes" | "validation_max_minutes")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_differ_are_named_by_their_paths() {
        let before = json!({
            "seed": 1, "engine": { "beam_width": 10, "target": "a" }, "replay": null,
            "stages": { "round": [{ "train": "size", "total_timesteps": 128 }] }
        });
        let now = json!({
            "seed": 2, "engine": { "beam_width": 8, "target": "b" }, "replay": { "noise": true },
            "stages": { "round": [{ "train": "size", "total_timesteps": 256 }] }
        });
        let mut changes = Vec::new();
        differences(&before, &now, "", &mut changes);
        let paths: Vec<_> =
            changes.iter().map(|change| (change.path.as_str(), may_change(&change.path))).collect();
        assert_eq!(
            paths,
            [
                ("seed", false),
                ("engine.beam_width", false),
                ("engine.target", true),
                ("replay", false),
                ("stages.round.0.total_timesteps", true)
            ]
        );
        let mut none = Vec::new();
        differences(&before, &before, "", &mut none);
        assert!(none.is_empty());
    }
}
