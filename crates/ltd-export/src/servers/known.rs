//! What a run or a package says of settings that do not change.

use std::path::Path;

use ltd_policy::{ChoiceEntry, CopyRule, Manifest, PolicyEntry, SourceEntry, read_text};
use serde::Deserialize;

use super::setting::{Setting, Trees};
use crate::{Error, Result};

/// A setting, and how fast it is if that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated {
    /// The setting.
    pub setting: Setting,
    /// Tokens per second.
    pub tokens_per_second: Option<f64>,
}

/// All that is known to choose a setting by. Figures can be compared with each other: they are of
/// the same text at the same costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Settings, the best first.
    pub settings: Vec<Rated>,
    /// Tokens per second of plain decoding.
    pub plain: Option<f64>,
    /// Those of the policy that the settings stand for.
    pub policy: Option<f64>,
    /// Those of the best choice at every position, made with foresight.
    pub oracle: Option<f64>,
    /// Where the settings are from.
    pub origin: String,
    /// Where the figures are from.
    pub basis: String,
    /// Whether levels of trees expanded only what can be verified. Servers expand the whole beam,
    /// so that deep trees look faster here than they are there.
    pub narrow_levels: bool,
}

impl Known {
    /// What a finished run measured. This is the manifest of one of its stages.
    pub fn of_run(run: &Path, manifest: &Manifest) -> Result<Self> {
        let path = run.join("summary.json");
        let fail = |problem: String| Error::Run { path: run.to_owned(), problem };
        let text = read_text(&path)
            .map_err(|error| {
            fail(format!(
                "is not finished, summary.json cannot be read: {error}: wait for its end, or name a recording and \
                 what its cycles cost with --trace and --latency"
            ))
        })?;
        let summary: Summary =
            serde_json::from_str(&text).map_err(|error| fail(format!("summary.json: {error}")))?;
        summary.known(manifest).map_err(|problem| fail(format!("summary.json: {problem}")))
    }

    /// What the manifest of a package says.
    pub fn of_package(folder: &Path, manifest: &Manifest) -> Result<Self> {
        let (depth, size, copies, basis) = match (&manifest.fallback, &manifest.policy) {
            (Some(fallback), _) => {
                let basis = format!("the package's fallback ({})", fallback.reason);
                (fallback.depth, fallback.size, fallback.copies, basis)
            }
            (None, PolicyEntry::Pair { depth, size, source }) => match (depth, size, source) {
                (
                    ChoiceEntry::Constant { value: depth },
                    ChoiceEntry::Constant { value: size },
                    SourceEntry::Trees | SourceEntry::Rule(_),
                ) => {
                    let rule = match source {
                        SourceEntry::Rule(rule) => Some(*rule),
                        SourceEntry::Trees | SourceEntry::Learned { .. } => None,
                    };
                    (*depth, *size, rule, "the package's constants".to_owned())
                }
                _ => return Err(nothing_static(folder)),
            },
            (None, PolicyEntry::Factored { .. }) => return Err(nothing_static(folder)),
        };
        let trees = Trees { beam_width: manifest.beam_width, depth, size };
        let unrated = |setting| Rated { setting, tokens_per_second: None };
        let mut settings = vec![unrated(Setting::of(trees, copies))];
        // Parts of a rule, for servers that do either.
        settings.extend(copies.map(|_| unrated(Setting::Trees(trees))));
        settings.extend(copies.map(|rule| unrated(Setting::Copies(rule))));
        Ok(Self {
            settings,
            plain: None,
            policy: None,
            oracle: None,
            origin: basis.clone(),
            basis,
            narrow_levels: false,
        })
    }
}

fn nothing_static(folder: &Path) -> Error {
    let problem =
        "its policy decides, and it names no fixed setting: name its run with --run, or beside it a recording \
         and what its cycles cost with --trace and --latency"
            .to_owned();
    Error::Package { path: folder.to_owned(), problem }
}

/// Of a run's `summary.json`, what is needed here.
#[derive(Debug, Deserialize)]
struct Summary {
    prompts: usize,
    stage: String,
    best_constant: Fixed,
    contenders: Vec<Contender>,
    predictions: Vec<Prediction>,
    grid: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Fixed {
    depth: usize,
    size: usize,
    copies: Option<CopyRule>,
}

#[derive(Debug, Deserialize)]
struct Contender {
    name: String,
    speedup_vs_static: f64,
}

#[derive(Debug, Deserialize)]
struct Prediction {
    name: String,
    opponent: f64,
    clairvoyant: f64,
    gain: f64,
    gain_at_live_times: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Point {
    #[serde(flatten)]
    setting: Fixed,
    tokens_per_second: f64,
    at_live_times: Option<f64>,
}

impl Point {
    /// The figure that decided.
    fn speed(&self) -> f64 {
        self.at_live_times.unwrap_or(self.tokens_per_second)
    }
}

impl Summary {
    /// Settings in the order of the grid, the strongest first: the search measured those further
    /// behind on fewer prompts.
    fn known(&self, manifest: &Manifest) -> std::result::Result<Known, String> {
        let strongest = self.grid.first().ok_or("grid: no setting was measured")?;
        if let Some(point) =
            self.grid.iter().find(|point| !(point.speed() > 0.0 && point.speed().is_finite()))
        {
            return Err(format!("grid: {} tokens/s, expected more than 0", point.speed()));
        }
        let trees = |Fixed { depth, size, .. }| Trees { beam_width: manifest.beam_width, depth, size };
        let mut settings: Vec<Rated> = self
            .grid
            .iter()
            .map(|point| Rated {
                setting: Setting::of(trees(point.setting), point.setting.copies),
                tokens_per_second: Some(point.speed()),
            })
            .collect();
        // Without the trees between its copies it was not measured, and is the last resort.
        settings.extend(
            strongest
                .setting
                .copies
                .map(|rule| Rated { setting: Setting::Copies(rule), tokens_per_second: None }),
        );
        let name = match manifest.policy {
            PolicyEntry::Pair { .. } => "pair",
            PolicyEntry::Factored { .. } => "factored",
        };
        // It compared the policy of the stage that was selected, and no other. Behind its name may
        // stand the rule by which it copies.
        let is_selected = self.stage.split(',').next() == Some(manifest.stage.as_str());
        // What the comparison measured, at the speed that the grid has for its best constant.
        let constant = self.grid.iter().find(|point| point.setting == self.best_constant);
        let compared = |name: &str| {
            let row = self.contenders.iter().find(|row| row.name == name);
            constant.zip(row).map(|(point, row)| point.speed() * row.speedup_vs_static)
        };
        let predicted = self.predictions.iter().find(|prediction| prediction.name == name);
        let (policy, oracle, basis) = if let Some(prediction) = predicted {
            // Gains are over the strongest setting, on recordings that were not learned from.
            let gain = prediction.gain_at_live_times.unwrap_or(prediction.gain);
            let oracle = strongest.speed() * prediction.clairvoyant / prediction.opponent;
            (
                Some(strongest.speed() * (1.0 + gain)),
                Some(oracle),
                "the run's prediction by replay".to_owned(),
            )
        } else {
            (
                compared(name),
                None,
                format!("the run's measurement on {}", ltd_console::count(self.prompts, "prompt")),
            )
        };
        let policy = policy.filter(|_| is_selected);
        let origin = "the run's comparison".to_owned();
        Ok(Known { settings, plain: compared("ar"), policy, oracle, origin, basis, narrow_levels: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(policy: PolicyEntry) -> Manifest {
        let model = |name: &str| ltd_policy::ModelIdentity { name: name.to_owned(), sha256: "00".to_owned() };
        Manifest {
            format_version: Manifest::VERSION,
            created_by: String::new(),
            run: String::new(),
            stage: "02-depth".to_owned(),
            seed: 1,
            compat: None,
            beam_width: 10,
            depth_cap: 7,
            target: model("target"),
            draft: model("draft"),
            dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
            threads: None,
            sampling: None,
            latency_table_sha256: None,
            objective: "gain".to_owned(),
            expected: None,
            acceptance_per_depth: Vec::new(),
            policy,
            fallback: None,
            files: std::collections::BTreeMap::new(),
        }
    }

    fn constants(source: SourceEntry) -> PolicyEntry {
        let [depth, size] = [3, 24].map(|value| ChoiceEntry::Constant { value });
        PolicyEntry::Pair { depth, size, source }
    }

    const RULE: CopyRule = CopyRule { match_length: 2, chain: 8 };

    fn summary(predictions: &str) -> Summary {
        let text = format!(
            r#"{{"prompts": 5, "stage": "02-depth, copying 8 tokens where 2 match", "other": 1, "best_constant": {{"depth": 1, "size": 4, "copies": null}},
            "contenders": [{{"name": "ar", "speedup_vs_static": 0.5}}, {{"name": "pair", "speedup_vs_static": 1.5}}],
            "predictions": {predictions},
            "grid": [
                {{"depth": 2, "size": 4, "copies": {{"match_length": 2, "chain": 8}}, "tokens_per_second": 90.0,
                  "at_live_times": 100.0}},
                {{"depth": 1, "size": 4, "copies": null, "tokens_per_second": 80.0, "at_live_times": null}}]}}"#
        );
        serde_json::from_str(&text).expect("a summary")
    }

    #[test]
    fn a_run_predicts_what_settings_lose() {
        let predictions = r#"[{"name": "factored", "opponent": 1, "clairvoyant": 9, "gain": 7, "gain_at_live_times": 7},
            {"name": "pair", "opponent": 50.0, "clairvoyant": 75.0, "gain": 0.3, "gain_at_live_times": 0.2}]"#;
        let known = summary(predictions).known(&manifest(constants(SourceEntry::Trees))).expect("settings");
        let trees = |depth| Trees { beam_width: 10, depth, size: 4 };
        let expected = [
            (Setting::CopiesAndTrees(RULE, trees(2)), Some(100.0)),
            (Setting::Trees(trees(1)), Some(80.0)),
            (Setting::Copies(RULE), None),
        ];
        let found: Vec<_> =
            known.settings.into_iter().map(|rated| (rated.setting, rated.tokens_per_second)).collect();
        assert_eq!(found, expected);
        assert_eq!((known.plain, known.policy, known.oracle), (Some(40.0), Some(120.0), Some(150.0)));
    }

    #[test]
    fn a_run_without_recordings_has_measured_the_policy_and_knows_no_oracle() {
        let known = summary("[]").known(&manifest(constants(SourceEntry::Trees))).expect("settings");
        assert_eq!((known.policy, known.oracle), (Some(120.0), None));
        assert_eq!(known.basis, "the run's measurement on 5 prompts");
        let other = Manifest { stage: "01-size".to_owned(), ..manifest(constants(SourceEntry::Trees)) };
        assert_eq!(summary("[]").known(&other).expect("settings").policy, None, "another stage's");
        let empty = Summary { grid: Vec::new(), ..summary("[]") };
        empty.known(&manifest(constants(SourceEntry::Trees))).expect_err("no setting");
        let mut still = summary("[]");
        still.grid[1].tokens_per_second = 0.0;
        let refused = still.known(&manifest(constants(SourceEntry::Trees))).expect_err("nothing per second");
        assert_eq!(refused, "grid: 0 tokens/s, expected more than 0");
    }

    #[test]
    fn a_package_knows_its_constants_and_its_fallback() {
        let of = |manifest: &Manifest| Known::of_package(Path::new("package"), manifest);
        let trees = Trees { beam_width: 10, depth: 3, size: 24 };
        let settings = |known: Known| -> Vec<Setting> {
            known.settings.into_iter().map(|rated| rated.setting).collect()
        };
        let known = of(&manifest(constants(SourceEntry::Trees))).expect("constants");
        assert_eq!(settings(known), [Setting::Trees(trees)]);
        let with_copies =
            [Setting::CopiesAndTrees(RULE, trees), Setting::Trees(trees), Setting::Copies(RULE)];
        let known = of(&manifest(constants(SourceEntry::Rule(RULE)))).expect("constants and a rule");
        assert_eq!(settings(known), with_copies);
        let learned = PolicyEntry::Pair {
            depth: ChoiceEntry::Constant { value: 3 },
            size: ChoiceEntry::Learned {
                file: String::new(),
                layout: ltd_policy::ObservationLayout::reference_size(10, 7),
                actions: ltd_policy::Actions::Size(ltd_policy::SizeActions { sizes: vec![2] }),
                is_constant: true,
            },
            source: SourceEntry::Trees,
        };
        let mut manifest = manifest(learned);
        let refused = of(&manifest).expect_err("it decides");
        assert!(
            refused.is_usage() && refused.to_string().starts_with("package: its policy decides"),
            "{refused}"
        );
        manifest.fallback = Some(ltd_policy::Fallback {
            depth: 3,
            size: 24,
            copies: Some(RULE),
            reason: "1 % slower".to_owned(),
        });
        let known = of(&manifest).expect("a fallback");
        assert!(known.basis.ends_with("1 % slower)"), "{}", known.basis);
        assert_eq!(settings(known), with_copies);
    }
}
