//! The final comparison: a table for people, JSON for programs.

use std::fmt::Write;

use ltd_engine::SamplingParams;
use ltd_policy::Fallback;
use serde::{Deserialize, Serialize};

use super::FixedSetting;
use super::comparison::{Comparison, comparison_table, loops_table};

/// All that a run found out about how fast its policies are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Run folder.
    pub(crate) run: String,
    /// Command line.
    pub(crate) command: Vec<String>,
    /// Device and CPU.
    pub(crate) device: String,
    /// Number type of both models.
    pub(crate) dtype: String,
    /// How tokens were chosen.
    pub(crate) sampling: SamplingParams,
    /// Prompts of the comparison.
    pub(crate) prompts: usize,
    /// Stage whose policies were selected, and the rule by which they copy if they were given one.
    pub(crate) stage: String,
    /// Contender that an export of the run decides like: `pair`, `factored`, or the stronger of
    /// `best-constant` and `copy-rule` if it falls back.
    pub(crate) ships: String,
    /// Why it falls back, if it does.
    pub(crate) fallback: Option<Fallback>,
    /// Setting of the contender `best-constant`.
    pub(crate) best_constant: FixedSetting,
    /// Setting of the contender `copy-rule`.
    pub(crate) copy_rule: FixedSetting,
    /// What ships over `best-constant`.
    pub(crate) speedup_vs_static: f64,
    /// The same over `copy-rule`.
    pub(crate) speedup_vs_copies: Option<f64>,
    /// Share of plain decoding's tokens that are in loops.
    pub(crate) loop_share: f64,
    /// One row per way to decode.
    pub(crate) contenders: Vec<Comparison>,
    /// What replay says of the policies; empty without recordings.
    pub(crate) predictions: Vec<Prediction>,
    /// Throughput of each fixed setting, the strongest first.
    pub(crate) grid: Vec<GridPoint>,
}

/// A fixed setting and its throughput.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct GridPoint {
    /// The setting.
    #[serde(flatten)]
    pub(crate) setting: FixedSetting,
    /// On the validation prompts.
    pub(crate) tokens_per_second: f64,
    /// On the recordings, at the times of those live cycles; `null` without recordings. Where it is
    /// known, it decides.
    pub(crate) at_live_times: Option<f64>,
}

/// A policy on held-out recordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prediction {
    /// `pair` or `factored`.
    pub(crate) name: String,
    /// Throughput there.
    pub(crate) tokens_per_second: f64,
    /// That of the strongest fixed setting.
    pub(crate) opponent: f64,
    /// That of the best tree or chain at every position, chosen with foresight: what no policy can
    /// reach.
    pub(crate) clairvoyant: f64,
    /// `tokens_per_second / opponent - 1`.
    pub(crate) gain: f64,
    /// The same if cycles of both took as much longer than the table says as they did live; `null`
    /// if none were run.
    pub(crate) gain_at_live_times: Option<f64>,
    /// Share of the gap between opponent and clairvoyant that is closed; `null` if there is none.
    pub(crate) closed: Option<f64>,
}

/// The contender that is the best constant of those that expand the whole beam.
pub(crate) const EAGLE_CONSTANT: &str = "eagle-constant";

impl Summary {
    /// What ships over the rule of copies, in words.
    fn over_copies(&self) -> String {
        let shipped = self.contenders.iter().find(|row| row.name == self.ships);
        let gain = shipped.and_then(|row| row.gains.over_copies());
        gain.map_or_else(String::new, |gain| format!(", {gain} over the copy rule"))
    }

    /// The table and what is worth knowing besides, as Markdown that reads well unrendered.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = comparison_table(&self.contenders, self.prompts).to_string();
        let (constant, rule) = (self.best_constant, self.copy_rule);
        let _ = writeln!(
            text,
            "\n{} prompts, {}, {}, {}. Best constant: {constant}. Copy rule: {rule}.",
            self.prompts, self.sampling, self.dtype, self.device,
        );
        let _ = match &self.fallback {
            Some(fallback) => writeln!(text, "Ships: {}, because {}.", self.ships, fallback.reason),
            None => writeln!(
                text,
                "Ships: the {} policy of stage {}, {:+.1} % over the best constant{}.",
                self.ships,
                self.stage,
                100.0 * (self.speedup_vs_static - 1.0),
                self.over_copies(),
            ),
        };
        let rate = |name: &str| {
            self.contenders.iter().find(|row| row.name == name).map(|row| row.gains.tokens_per_second)
        };
        if let (Some(ships), Some(eagle)) = (rate(&self.ships), rate(EAGLE_CONSTANT)) {
            let _ = writeln!(
                text,
                "{:+.1} % over the best constant that drafts as EAGLE-3 does.",
                100.0 * (ships / eagle - 1.0)
            );
        }
        for row in self.contenders.iter().filter(|row| ["pair", "factored"].contains(&row.name.as_str())) {
            let _ = writeln!(text, "{}", row.information());
        }
        if let Some(table) = loops_table(&self.contenders, self.loop_share) {
            let _ = writeln!(text, "\n{table}");
        }
        for prediction in &self.predictions {
            let live = prediction.gain_at_live_times;
            let live = live.map(|gain| format!(" ({:+.1} % at the times of live cycles)", 100.0 * gain));
            let closed = prediction.closed;
            let closed =
                closed.map(|share| format!(", {:.0} % of the way to the clairvoyant", 100.0 * share));
            let _ = writeln!(
                text,
                "Replay of held-out recordings: {} {:+.1} % over the strongest fixed setting{}{}.",
                prediction.name,
                100.0 * prediction.gain,
                live.unwrap_or_default(),
                closed.unwrap_or_default()
            );
        }
        text
    }
}
