//! The final comparison: a table for people, JSON for programs.

use std::fmt::Write;

use ltd_engine::{CycleStats, SamplingParams};
use ltd_policy::Fallback;
use serde::{Deserialize, Serialize};

use super::Measurement;
use super::statistics::{entropy, interval, quartiles};
use crate::config::StaticSetting;

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
    /// Stage whose policies were selected.
    pub(crate) stage: String,
    /// Contender that an export of the run decides like: `pair`, `factored`, or `best-constant` if it falls back.
    pub(crate) ships: String,
    /// Why it falls back, if it does.
    pub(crate) fallback: Option<Fallback>,
    /// Setting of the contender `best-constant`.
    pub(crate) best_constant: StaticSetting,
    /// What ships over `best-constant`.
    pub(crate) speedup_vs_static: f64,
    /// One row per way to decode.
    pub(crate) contenders: Vec<Comparison>,
    /// What replay says of the policies; empty without recordings.
    pub(crate) predictions: Vec<Prediction>,
    /// Throughput of each constant setting on the validation prompts, best first.
    pub(crate) grid: Vec<GridPoint>,
}

/// A constant setting and its throughput.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct GridPoint {
    pub(crate) depth: usize,
    pub(crate) size: usize,
    pub(crate) tokens_per_second: f64,
}

/// A policy on held-out recordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prediction {
    /// `pair` or `factored`.
    pub(crate) name: String,
    /// Throughput there.
    pub(crate) tokens_per_second: f64,
    /// That of the constant which is fastest on the training recordings.
    pub(crate) best_constant: f64,
    /// That of the best choice at every position, made with foresight: what no policy can reach.
    pub(crate) clairvoyant: f64,
    /// `tokens_per_second / best_constant - 1`.
    pub(crate) gain: f64,
    /// Share of the gap between constant and clairvoyant that is closed.
    pub(crate) closed: f64,
}

/// One row of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// `ar`, `eagle-default`, `best-constant`, `pair` or `factored`.
    pub(crate) name: String,
    /// `sum(tau) / sum(T)` over all prompts.
    pub(crate) tokens_per_second: f64,
    /// 95 % interval over prompts (bootstrap).
    pub(crate) interval: [f64; 2],
    /// Quartiles of the prompts' own throughputs.
    pub(crate) quartiles: [f64; 3],
    /// Throughput over plain decoding's.
    pub(crate) speedup: f64,
    /// Mean acceptance length.
    pub(crate) acceptance_length: f64,
    /// Mean draft depth.
    pub(crate) mean_depth: f64,
    /// Mean verification size.
    pub(crate) mean_size: f64,
    /// Entropy of the chosen depths over the cycles, in bits: as a decision depends on the state alone, this is its
    /// mutual information with the state. 0 is a constant.
    pub(crate) depth_information: f64,
    /// The same of the sizes.
    pub(crate) size_information: f64,
    /// Share of the time that drafting takes.
    pub(crate) draft_share: f64,
    /// Share that verification takes.
    pub(crate) verify_share: f64,
    /// Share that decisions take.
    pub(crate) policy_share: f64,
    /// Prompts whose output equals plain decoding's, token for token. In 16-bit types rounding can part them.
    pub(crate) same_output: usize,
}

impl Comparison {
    fn is_policy(&self) -> bool {
        ["pair", "factored"].contains(&self.name.as_str())
    }

    /// The row of a measurement; `baseline` is plain decoding's throughput.
    pub(crate) fn new(measurement: &Measurement, baseline: f64) -> Self {
        let total = measurement.total();
        let (low, high) = interval(&measurement.prompts);
        Self {
            name: measurement.name.clone(),
            tokens_per_second: total.tokens_per_second(),
            interval: [low, high],
            quartiles: quartiles(measurement.prompts.iter().map(CycleStats::tokens_per_second).collect()),
            speedup: total.tokens_per_second() / baseline,
            acceptance_length: total.acceptance_length(),
            mean_depth: total.mean_depth(),
            mean_size: total.mean_size(),
            depth_information: entropy(&measurement.depths),
            size_information: entropy(&measurement.sizes),
            draft_share: total.share(total.timing.draft),
            verify_share: total.share(total.timing.verify),
            policy_share: total.share(total.timing.policy),
            same_output: measurement.same_output,
        }
    }
}

impl Summary {
    /// The table and what is worth knowing besides, as Markdown that reads well unrendered.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        let header = [
            "contender",
            "tokens/s",
            "95 % interval",
            "speedup",
            "accepted",
            "depth",
            "size",
            "draft",
            "verify",
            "policy",
            "same output",
        ];
        let rows = self.contenders.iter().map(|row| {
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            [
                row.name.clone(),
                format!("{:.1}", row.tokens_per_second),
                format!("{:.1} - {:.1}", row.interval[0], row.interval[1]),
                format!("{:.2}", row.speedup),
                format!("{:.2}", row.acceptance_length),
                format!("{:.1}", row.mean_depth),
                format!("{:.1}", row.mean_size),
                percent(row.draft_share),
                percent(row.verify_share),
                percent(row.policy_share),
                format!("{}/{}", row.same_output, self.prompts),
            ]
        });
        let rows: Vec<[String; 11]> = [header.map(str::to_owned)].into_iter().chain(rows).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        for (index, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
            if index == 0 {
                let rule = widths.iter().enumerate().map(|(column, &width)| {
                    if column == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                });
                let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
            }
        }
        let StaticSetting { depth, size } = self.best_constant;
        let _ = writeln!(
            text,
            "\n{} prompts, {}, {}, {}. Best constant: depth {depth}, size {size}.",
            self.prompts, self.sampling, self.dtype, self.device,
        );
        let _ = match &self.fallback {
            Some(fallback) => writeln!(text, "Ships: the best constant, because {}.", fallback.reason),
            None => writeln!(
                text,
                "Ships: the {} policy of stage {}, {:+.1} % over the best constant.",
                self.ships,
                self.stage,
                100.0 * (self.speedup_vs_static - 1.0),
            ),
        };
        for row in self.contenders.iter().filter(|row| row.is_policy()) {
            let choice = |bits: f64| {
                if bits > 0.0 { format!("{bits:.2} bits") } else { "none, it is a constant".to_owned() }
            };
            let _ = writeln!(
                text,
                "Information about the state in the choices of {}: depth {}, size {}.",
                row.name,
                choice(row.depth_information),
                choice(row.size_information)
            );
        }
        for prediction in &self.predictions {
            let _ = writeln!(
                text,
                "Replay of held-out recordings: {} {:+.1} % over the best constant, {:.0} % of the way to the clairvoyant.",
                prediction.name,
                100.0 * prediction.gain,
                100.0 * prediction.closed
            );
        }
        text
    }
}
