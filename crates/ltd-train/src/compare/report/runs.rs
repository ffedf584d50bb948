//! How policies were trained: curves and results of runs, for tables of ablations.

use std::path::Path;

use serde::Deserialize;

use super::document::Document;
use super::part::FEWEST_QUESTIONS;
use super::pictures::{self, Line};
use crate::evaluate::{Prediction, Table, percent};
use crate::metrics::Record;
use crate::{Error, Result};

/// Most points of a curve in a figure.
const POINTS: usize = 80;

/// A finished run.
pub(crate) struct Run {
    name: String,
    summary: RunSummary,
    records: Vec<Record>,
}

/// What is told of a run's summary.
#[derive(Deserialize)]
struct RunSummary {
    stage: String,
    ships: String,
    /// Prompts of the final comparison.
    prompts: usize,
    speedup_vs_static: f64,
    speedup_vs_copies: Option<f64>,
    predictions: Vec<Prediction>,
}

impl Run {
    /// Reads the folder of a finished run.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let read = |file: &str| {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| Error::Io { path: path.clone(), source })?;
            Ok::<_, Error>((path, text))
        };
        let problem = |path: &Path, problem: String| Error::Results { path: path.to_owned(), problem };
        let (path, summary) = read("summary.json")?;
        let summary = serde_json::from_str(&summary).map_err(|error| problem(&path, error.to_string()))?;
        let (path, lines) = read("metrics.jsonl")?;
        let record = |(number, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| problem(&path, format!("line {number} is damaged: {error}")))
        };
        let records = (1..).zip(lines.lines()).map(record).collect::<Result<_>>()?;
        let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self { name, summary, records })
    }

    /// A curve of a stage, or of the whole run.
    fn curve(&self, stage: &str, tag: &str) -> Vec<(f64, f64)> {
        let of_stage = self.records.iter().filter(|record| record.stage == stage);
        let points = of_stage.filter_map(|record| Some((record.timesteps as f64, *record.values.get(tag)?)));
        thinned(&points.filter(|(_, value)| value.is_finite()).collect::<Vec<_>>())
    }

    /// Stages in which a policy learned.
    fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for record in self.records.iter().filter(|record| record.values.contains_key(REWARD)) {
            if stages.last() != Some(&record.stage.as_str()) {
                stages.push(&record.stage);
            }
        }
        stages
    }
}

const REWARD: &str = "rollout/ep_rew_mean";
const VALIDATION: &str = "eval/tokens_per_second";

/// Means of neighbours, so that a curve has no more than [`POINTS`].
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(together).map(mean).collect()
}

/// A table of all runs, and the curves of each.
pub(super) fn chapter(runs: &[Run], document: &mut Document) {
    if runs.is_empty() {
        return;
    }
    document.heading("Training");
    let row = |run: &Run| {
        let best = run.summary.predictions.iter().max_by(|a, b| a.gain.total_cmp(&b.gain));
        let predicted = best.map_or_else(String::new, |best| format!("{} %", percent(1.0 + best.gain)));
        let closed = best.and_then(|best| best.closed).map(|closed| format!("{:.0} %", 100.0 * closed));
        // Of few prompts it would be chance.
        let enough = run.summary.prompts >= FEWEST_QUESTIONS;
        let live = |over: Option<f64>| {
            over.filter(|_| enough).map_or_else(String::new, |over| format!("{} %", percent(over)))
        };
        vec![
            run.name.clone(),
            best.map_or_else(String::new, |best| best.name.clone()),
            predicted,
            closed.unwrap_or_default(),
            format!("{} of {}", run.summary.ships, run.summary.stage),
            live(Some(run.summary.speedup_vs_static)),
            live(run.summary.speedup_vs_copies),
        ]
    };
    document.table(Table {
        caption: format!(
            "What runs learned. By replay of its held-out recordings, the gain of a run's best policy over the strongest \
             fixed setting, copies included, and the share of the way to foresight that it goes. On live cycles of its \
             own final comparison, if that had {FEWEST_QUESTIONS} prompts, what it ships over the best constant and over \
             the best rule of copies."
        ),
        ..Table::new(
            ["run", "best", "replay", "of foresight", "ships", "over constant", "over copies"],
            runs.iter().map(row).collect(),
        )
    });
    let validation: Vec<Line> = runs
        .iter()
        .map(|run| (run.name.clone(), run.curve("", VALIDATION)))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    if !validation.is_empty() {
        let caption = "Tokens per second of the snapshot that each stage keeps, on the validation prompts or the held-out \
                       recordings.";
        document.picture(pictures::lines(&validation, "timesteps of the run", "tokens/s"), caption);
        document.table(ends(&validation, "run"));
    }
    for run in runs {
        let stages = run.stages().into_iter();
        let lines: Vec<Line> = stages.map(|stage| (stage.to_owned(), run.curve(stage, REWARD))).collect();
        if lines.is_empty() {
            continue;
        }
        let caption = format!("{}: mean reward of a cycle while each stage learns.", run.name);
        document.picture(pictures::lines(&lines, "timesteps of the stage", "reward"), caption);
        document.table(ends(&lines, &run.name));
    }
}

/// Where curves begin and end, and their highest value.
fn ends(lines: &[Line], of: &str) -> Table {
    let row = |(name, points): &Line| {
        let value =
            |point: Option<&(f64, f64)>| point.map_or_else(String::new, |point| format!("{:.2}", point.1));
        let highest = points.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        vec![name.clone(), value(points.first()), value(highest), value(points.last())]
    };
    Table::new([of, "first", "highest", "last"], lines.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_mean() {
        let points: Vec<(f64, f64)> = (0..1000).map(|at| (f64::from(at), f64::from(at % 2))).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS && thin.len() > POINTS / 2, "{}", thin.len());
        assert!(thin.iter().all(|(_, value)| (0.4..0.6).contains(value)), "{thin:?}");
        assert_eq!(thinned(&points[..3]), points[..3]);
        assert_eq!(thinned(&[]), []);
    }
}
