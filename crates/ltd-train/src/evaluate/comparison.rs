//! Contenders side by side.

use std::fmt::Write;

use ltd_engine::CycleStats;
use serde::{Deserialize, Serialize};

use super::Measurement;
use ltd_run::statistics::{entropy, interval, quartiles, ratio_interval};

/// One row of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// `ar`, `eagle-default`, `eagle-constant`, `best-constant`, `copy-rule`, `pair` or `factored`;
    /// `depth D, size V` and the folders of packages where those were asked for.
    pub(crate) name: String,
    /// `sum(tau) / sum(T)` over all prompts.
    pub(crate) tokens_per_second: f64,
    /// 95 % interval over prompts (bootstrap).
    pub(crate) interval: [f64; 2],
    /// Quartiles of the prompts' own throughputs.
    pub(crate) quartiles: [f64; 3],
    /// Throughput over plain decoding's.
    pub(crate) speedup: f64,
    /// Throughput over that of the constant that the others are measured against.
    pub(crate) speedup_vs_static: f64,
    /// 95 % interval of it (bootstrap over prompts, both contenders together).
    pub(crate) speedup_vs_static_interval: [f64; 2],
    /// Throughput over that of the rule of copies that the others are measured against; `null`
    /// without one.
    pub(crate) speedup_vs_copies: Option<f64>,
    /// 95 % interval of it.
    pub(crate) speedup_vs_copies_interval: Option<[f64; 2]>,
    /// Share of the tokens that were copied.
    pub(crate) copied_share: f64,
    /// Mean acceptance length.
    pub(crate) acceptance_length: f64,
    /// Mean draft depth.
    pub(crate) mean_depth: f64,
    /// Mean verification size.
    pub(crate) mean_size: f64,
    /// Entropy of the chosen depths over the cycles, in bits: as a decision depends on the state
    /// alone, this is its mutual information with the state. 0 is a constant.
    pub(crate) depth_information: f64,
    /// The same of the sizes.
    pub(crate) size_information: f64,
    /// Share of the time that drafting takes.
    pub(crate) draft_share: f64,
    /// Share that verification takes.
    pub(crate) verify_share: f64,
    /// Share that decisions take.
    pub(crate) policy_share: f64,
    /// Prompts whose output equals plain decoding's, token for token. In 16-bit types rounding can
    /// part them.
    pub(crate) same_output: usize,
}

impl Comparison {
    /// The row of a measurement; the others are plain decoding's and the constant's.
    pub(crate) fn new(measurement: &Measurement, plain: &Measurement, constant: &Measurement) -> Self {
        let total = measurement.total();
        let rate = total.tokens_per_second();
        let (low, high) = interval(&measurement.prompts);
        let (least, most) = ratio_interval(&measurement.prompts, &constant.prompts);
        Self {
            name: measurement.name.clone(),
            tokens_per_second: rate,
            interval: [low, high],
            quartiles: quartiles(measurement.prompts.iter().map(CycleStats::tokens_per_second).collect()),
            speedup: rate / plain.total().tokens_per_second(),
            speedup_vs_static: rate / constant.total().tokens_per_second(),
            speedup_vs_static_interval: [least, most],
            speedup_vs_copies: None,
            speedup_vs_copies_interval: None,
            copied_share: total.copied_tokens as f64 / total.tokens.max(1) as f64,
            acceptance_length: total.acceptance_length(),
            mean_depth: total.mean_depth(),
            mean_size: total.mean_size(),
            depth_information: entropy(&total.depths),
            size_information: entropy(&total.requested_sizes),
            draft_share: total.share(total.timing.draft),
            verify_share: total.share(total.timing.verify),
            policy_share: total.share(total.timing.policy),
            same_output: measurement.same_output,
        }
    }

    /// The row with what `measurement`, whose it is, gains over a rule of copies.
    pub(crate) fn beside(self, measurement: &Measurement, rule: &Measurement) -> Self {
        let rate = |measurement: &Measurement| measurement.total().tokens_per_second();
        let (least, most) = ratio_interval(&measurement.prompts, &rule.prompts);
        Self {
            speedup_vs_copies: Some(rate(measurement) / rate(rule)),
            speedup_vs_copies_interval: Some([least, most]),
            ..self
        }
    }

    /// What its choices tell of the state, in words.
    pub(crate) fn information(&self) -> String {
        let choice = |bits: f64| {
            if bits > 0.0 { format!("{bits:.2} bits") } else { "none, it is a constant".to_owned() }
        };
        format!(
            "Information about the state in the choices of {}: depth {}, size {}.",
            self.name,
            choice(self.depth_information),
            choice(self.size_information)
        )
    }
}

/// The rows as a Markdown table that reads well unrendered.
pub(crate) fn comparison_table(rows: &[Comparison], prompts: usize) -> String {
    let header = [
        "contender",
        "tokens/s",
        "95 % interval",
        "speedup",
        "over constant",
        "95 % interval",
        "accepted",
        "copied",
        "depth",
        "size",
        "draft",
        "verify",
        "policy",
        "same output",
    ];
    let rows = rows.iter().map(|row| {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let gain = |ratio: f64| format!("{:+.1}", 100.0 * (ratio - 1.0));
        let [low, high] = row.speedup_vs_static_interval.map(gain);
        [
            row.name.clone(),
            format!("{:.1}", row.tokens_per_second),
            format!("{:.1} - {:.1}", row.interval[0], row.interval[1]),
            format!("{:.2}", row.speedup),
            format!("{} %", gain(row.speedup_vs_static)),
            format!("{low} .. {high}"),
            format!("{:.2}", row.acceptance_length),
            format!("{:.0} %", 100.0 * row.copied_share),
            format!("{:.1}", row.mean_depth),
            format!("{:.1}", row.mean_size),
            percent(row.draft_share),
            percent(row.verify_share),
            percent(row.policy_share),
            format!("{}/{prompts}", row.same_output),
        ]
    });
    let rows: Vec<_> = [header.map(str::to_owned)].into_iter().chain(rows).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
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
    text
}
