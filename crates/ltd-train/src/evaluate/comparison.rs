//! Contenders side by side.

use std::time::Duration;

use ltd_engine::CycleStats;
use serde::{Deserialize, Serialize};

use super::Measurement;
use ltd_run::statistics::{entropy, interval, quartiles, ratio_interval};

/// Whom contenders are measured against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opposition<'a> {
    /// Plain decoding.
    pub(crate) plain: &'a Measurement,
    /// The strongest constant.
    pub(crate) constant: &'a Measurement,
    /// The strongest rule of copies, if one was measured.
    pub(crate) rule: Option<&'a Measurement>,
}

/// How fast a contender is, and how much faster than others on the same prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gains {
    /// `sum(tau) / sum(T)` over all prompts.
    pub(crate) tokens_per_second: f64,
    /// 95 % interval over prompts (bootstrap).
    pub(crate) interval: [f64; 2],
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
}

/// One row of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// `ar`, `eagle-default`, `eagle-constant`, `best-constant`, `copy-rule`, `pair` or `factored`;
    /// `depth D, size V` and the folders of packages where those were asked for.
    pub(crate) name: String,
    /// Over whole answers.
    #[serde(flatten)]
    pub(crate) gains: Gains,
    /// Over answers that are cut where that of plain decoding begins to loop; `null` where none
    /// does.
    pub(crate) before_loops: Option<Gains>,
    /// Quartiles of the prompts' own throughputs.
    pub(crate) quartiles: [f64; 3],
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
    /// Milliseconds that one waits for the next tokens, which come with a cycle: median, 95th and
    /// 99th percentile; `null` without live cycles.
    #[serde(default)]
    pub(crate) wait_ms: Option<[f64; 3]>,
    /// Share of the cycles that accepted at least 1, 2, ... draft or copied tokens.
    #[serde(default)]
    pub(crate) acceptance_per_position: Vec<f64>,
}

impl Gains {
    /// By what `prompts` gives of each measurement; none if it gives nothing of one.
    fn of(
        measurement: &Measurement,
        Opposition { plain, constant, rule }: Opposition<'_>,
        prompts: fn(&Measurement) -> Option<&[CycleStats]>,
    ) -> Option<Self> {
        let against = rule.map_or(Some(&[][..]), prompts);
        let ([own, plain, constant], rule_prompts) =
            ([prompts(measurement)?, prompts(plain)?, prompts(constant)?], against?);
        let rate = |prompts| CycleStats::merged(prompts).tokens_per_second();
        let over = |other| rate(own) / rate(other);
        let over_interval = |other| {
            let (least, most) = ratio_interval(own, other);
            [least, most]
        };
        let (low, high) = interval(own);
        Some(Self {
            tokens_per_second: rate(own),
            interval: [low, high],
            speedup: over(plain),
            speedup_vs_static: over(constant),
            speedup_vs_static_interval: over_interval(constant),
            speedup_vs_copies: rule.map(|_| over(rule_prompts)),
            speedup_vs_copies_interval: rule.map(|_| over_interval(rule_prompts)),
        })
    }

    /// What is gained over the rule of copies, in words.
    pub(crate) fn over_copies(&self) -> Option<String> {
        let [low, high] = self.speedup_vs_copies_interval?.map(percent);
        Some(format!("{} % ({low} .. {high})", percent(self.speedup_vs_copies?)))
    }
}

impl Comparison {
    /// The row of a measurement.
    pub(crate) fn new(measurement: &Measurement, opposition: Opposition<'_>) -> Self {
        let total = measurement.total();
        let whole = Gains::of(measurement, opposition, |of| Some(&of.prompts));
        Self {
            name: measurement.name.clone(),
            gains: whole.expect("invariant: all have prompts"),
            before_loops: Gains::of(measurement, opposition, |of| {
                of.before_loops.as_ref().map(|cut| &cut.prompts[..])
            }),
            quartiles: quartiles(measurement.prompts.iter().map(CycleStats::tokens_per_second).collect()),
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
            wait_ms: wait_ms(&measurement.waits),
            acceptance_per_position: total.acceptance_per_depth(),
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

/// Median, 95th and 99th percentile in milliseconds (nearest rank).
fn wait_ms(waits: &[Duration]) -> Option<[f64; 3]> {
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| (sorted.len() * percent).div_ceil(100).max(1) - 1;
    let ms = |percent| Some(sorted.get(at(percent))?.as_secs_f64() * 1e3);
    Some([ms(50)?, ms(95)?, ms(99)?])
}

/// How long one waits, and how far candidates are accepted; none without live cycles.
pub(crate) fn waits_table(rows: &[Comparison]) -> Option<Table> {
    const POSITIONS: usize = 5;
    let header = ["contender", "wait ms", "95 %", "99 %", "1 or more", "2", "3", "4", "5"];
    let rows = rows.iter().filter_map(|row| {
        let waits = row.wait_ms?.map(|ms| format!("{ms:.1}"));
        let share = |position: usize| row.acceptance_per_position.get(position).copied().unwrap_or(0.0);
        let shares = (0..POSITIONS).map(|position| format!("{:.0} %", 100.0 * share(position)));
        Some([row.name.clone()].into_iter().chain(waits).chain(shares).collect())
    });
    let rows: Vec<Vec<String>> = rows.collect();
    (!rows.is_empty()).then(|| Table {
        caption:
            "How long one waits for the next tokens, which come with a cycle, and the share of cycles in which so \
             many proposed tokens are accepted, the target's own token not counted:"
                .to_owned(),
        ..Table::new(header, rows)
    })
}

/// A ratio as what is gained in percent.
pub(crate) fn percent(ratio: f64) -> String {
    format!("{:+.1}", 100.0 * (ratio - 1.0))
}

/// An interval in a table; one without width, as of a single question, is left out.
fn interval_of([low, high]: &[String; 2], between: &str) -> String {
    if low == high { String::new() } else { format!("{low}{between}{high}") }
}

/// The rows as a table; of `prompts` answers it is told how many are the same text.
pub(crate) fn comparison_table(rows: &[Comparison], prompts: usize) -> Table {
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
        let share = |share: f64| format!("{:.1} %", 100.0 * share);
        let [low, high] = row.gains.speedup_vs_static_interval.map(percent);
        vec![
            row.name.clone(),
            format!("{:.1}", row.gains.tokens_per_second),
            interval_of(&row.gains.interval.map(|rate| format!("{rate:.1}")), " - "),
            format!("{:.2}", row.gains.speedup),
            format!("{} %", percent(row.gains.speedup_vs_static)),
            interval_of(&[low, high], " .. "),
            format!("{:.2}", row.acceptance_length),
            format!("{:.0} %", 100.0 * row.copied_share),
            format!("{:.1}", row.mean_depth),
            format!("{:.1}", row.mean_size),
            share(row.draft_share),
            share(row.verify_share),
            share(row.policy_share),
            format!("{}/{prompts}", row.same_output),
        ]
    });
    Table::new(header, rows.collect())
}

/// How fast all are up to the first loop of each answer; none where there is no loop. `share` is
/// that of plain decoding's tokens in loops.
pub(crate) fn loops_table(rows: &[Comparison], share: f64) -> Option<Table> {
    let cut: Option<Vec<Vec<String>>> = rows
        .iter()
        .map(|row| {
            let gains = row.before_loops.as_ref()?;
            let [low, high] = gains.speedup_vs_static_interval.map(percent);
            Some(vec![
                row.name.clone(),
                format!("{:.1}", gains.tokens_per_second),
                format!("{:.2}", gains.speedup),
                format!("{} % ({low} .. {high})", percent(gains.speedup_vs_static)),
                gains.over_copies().unwrap_or_default(),
            ])
        })
        .collect();
    let header = ["contender", "tokens/s", "speedup", "over constant", "over copy rule"];
    let share = 100.0 * share;
    cut.map(|cut| Table {
        caption: format!(
            "{share:.1} % of plain decoding's tokens are in loops. Answers up to their first loop:"
        ),
        ..Table::new(header, cut)
    })
}

/// Figures in rows. The first column is text, the others are numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// What it shows; empty where that needs no words.
    pub(crate) caption: String,
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>, rows: Vec<Vec<String>>) -> Self {
        Self { caption: String::new(), header: header.into_iter().map(Into::into).collect(), rows }
    }
}

/// As Markdown that reads well unrendered.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if !self.caption.is_empty() {
            write!(f, "{}\n\n", self.caption)?;
        }
        let escaped = |row: &Vec<String>| row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = [&self.header].into_iter().chain(&self.rows).map(escaped).collect();
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (index, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            writeln!(f, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
            if index == 0 {
                let rule = widths.iter().enumerate().map(|(column, &width)| {
                    if column == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                });
                writeln!(f, "|{}|", rule.collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ltd_engine::CycleTiming;

    use super::super::BeforeLoops;
    use super::*;

    fn stats(tokens: usize, ms: u64) -> CycleStats {
        CycleStats {
            cycles: 1,
            tokens,
            timing: CycleTiming { verify: Duration::from_millis(ms), ..CycleTiming::default() },
            ..CycleStats::default()
        }
    }

    /// Two prompts, of whose answers the second one loops after 10 tokens and `cut` milliseconds,
    /// if at all.
    fn measurement(name: &str, [first, whole]: [u64; 2], cut: Option<u64>) -> Measurement {
        Measurement {
            name: name.to_owned(),
            prompts: vec![stats(20, first), stats(40, whole)],
            before_loops: cut
                .map(|cut| BeforeLoops { share: 0.5, prompts: vec![stats(20, first), stats(10, cut)] }),
            ..Measurement::default()
        }
    }

    #[test]
    fn gains_are_told_once_more_without_loops() {
        let plain = measurement("ar", [400, 800], Some(200));
        let constant = measurement("constant", [200, 400], Some(100));
        // Twice as fast as the constant in the loop alone.
        let rule = measurement("rule", [200, 250], Some(100));
        let opposition = Opposition { plain: &plain, constant: &constant, rule: Some(&rule) };
        let row = Comparison::new(&rule, opposition);
        assert!((row.gains.tokens_per_second - 60.0 / 0.45).abs() < 1e-9, "{row:?}");
        assert!((row.gains.speedup_vs_static - 600.0 / 450.0).abs() < 1e-9, "{row:?}");
        let cut = row.before_loops.as_ref().expect("there is a loop");
        assert_eq!((cut.tokens_per_second, cut.speedup, cut.speedup_vs_static), (100.0, 2.0, 1.0));
        assert_eq!(cut.speedup_vs_copies, Some(1.0));
        assert_eq!(row.gains.over_copies().as_deref(), Some("+0.0 % (+0.0 .. +0.0)"));

        let written = serde_json::to_value(&row).expect("JSON");
        assert_eq!(written["speedup_vs_copies"], 1.0);
        assert_eq!(written["before_loops"]["speedup"], 2.0);
        assert_eq!(serde_json::from_value::<Comparison>(written).expect("the same row"), row);

        let table = loops_table(&[row], 0.5).expect("there is a loop").to_string();
        assert!(table.starts_with("50.0 % of plain decoding's tokens are in loops."), "{table}");
        assert!(table.contains("| rule      |    100.0 |    2.00 | +0.0 %"), "{table}");
    }

    #[test]
    fn there_is_no_second_table_without_loops() {
        let [plain, other] =
            [("ar", 400), ("other", 200)].map(|(name, ms)| measurement(name, [ms, ms], None));
        let opposition = Opposition { plain: &plain, constant: &other, rule: None };
        let row = Comparison::new(&other, opposition);
        assert_eq!((row.before_loops.as_ref(), row.gains.speedup_vs_copies), (None, None));
        assert!(loops_table(&[row], 0.0).is_none());
    }
}
