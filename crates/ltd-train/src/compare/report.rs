//! What a comparison found, of measurements or of the file that kept them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::print_result;
use ltd_engine::CycleStats;
use ltd_policy::{check_output_file, write_json};
use ltd_run::statistics::quartiles;
use serde::Serialize;

use crate::evaluate::{
    Comparison, Entrant, Header, Measurement, NOTHING_YET, Opposition, Role, Tally, comparison_table,
    loops_table, read_results, waits_table,
};
use crate::{Error, Result};

/// Drift of plain decoding that is told.
const MOST_DRIFT: f64 = 0.05;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What `compare --results` kept, whole or not; several are reported one after another
    #[arg(value_name = "FILE", required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Write what is reported as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Fails unless a report can be written, elsewhere than where cycles are kept.
pub(super) fn check_places<'p>(
    json: Option<&PathBuf>,
    kept: impl IntoIterator<Item = &'p PathBuf>,
) -> Result<()> {
    let Some(json) = json else { return Ok(()) };
    check_output_file("--json", json)?;
    let place = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    if kept.into_iter().any(|kept| place(kept) == place(json)) {
        let problem = "--json would replace what is kept there: name another file".to_owned();
        return Err(Error::Results { path: json.clone(), problem });
    }
    Ok(())
}

/// Reports what comparisons kept.
pub(crate) fn report(args: &ReportArgs) -> Result<()> {
    check_places(args.json.as_ref(), &args.results)?;
    let mut reports = Vec::new();
    for path in &args.results {
        let (header, answers) = read_results(path)?;
        let mut tally = Tally::new(header.compared.contenders.iter().map(|entrant| entrant.name.clone()));
        for answers in answers {
            tally.add(answers);
        }
        if tally.measured == 0 {
            return Err(Error::Results { path: path.clone(), problem: NOTHING_YET.to_owned() });
        }
        reports.push(Report::of(header, &tally.finish()));
    }
    let texts = args.results.iter().zip(&reports).map(|(path, report)| {
        let title = if reports.len() > 1 { format!("{}:\n\n", path.display()) } else { String::new() };
        title + &describe(report)
    });
    let printed = print_result(format_args!("{}", texts.collect::<Vec<_>>().join("\n")));
    match (&args.json, &reports[..]) {
        (Some(path), [report]) => write_json(path, report)?,
        (Some(path), reports) => write_json(path, &reports)?,
        (None, _) => (),
    }
    Ok(printed?)
}

/// What was compared and how, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    header: Header,
    /// Prompts that were measured.
    prompts: usize,
    /// The constant that the others are measured against: the fastest here.
    best_constant: String,
    /// The rule of copies that the others are measured against: the fastest here; `null` without
    /// one.
    best_copy_rule: Option<String>,
    /// Share of plain decoding's tokens that are in loops.
    loop_share: f64,
    /// How much longer a token of plain decoding took in the last third of the prompts than in the
    /// first, by their medians: -0.01 is 1 % less. `null` for fewer than six prompts.
    drift: Option<f64>,
    contenders: Vec<Comparison>,
}

impl Report {
    /// What measurements say, in the order of the header's contenders.
    pub(super) fn of(header: Header, measured: &[Measurement]) -> Self {
        let entrants = &header.compared.contenders;
        let with = |role: Role| {
            let measured = entrants.iter().zip(measured);
            fastest(measured.filter(move |(entrant, _)| entrant.role == role).map(|(_, measured)| measured))
        };
        let (constant, rule) = (with(Role::Constant), with(Role::Rule));
        let constant = constant.expect("invariant: a constant was measured");
        let opposition = Opposition { plain: &measured[0], constant, rule };
        Self {
            prompts: measured[0].prompts.len(),
            best_constant: constant.name.clone(),
            best_copy_rule: rule.map(|rule| rule.name.clone()),
            loop_share: measured[0].loop_share(),
            drift: drift(&measured[0].prompts),
            contenders: measured.iter().map(|row| Comparison::new(row, opposition)).collect(),
            header,
        }
    }
}

/// How much longer a token took in the last third of some prompts than in the first, by their
/// medians; none for so few that the prompts themselves would tell.
fn drift(prompts: &[CycleStats]) -> Option<f64> {
    const FEWEST: usize = 6;
    let third = prompts.len() / 3;
    let median = |prompts: &[CycleStats]| {
        quartiles(prompts.iter().map(|stats| 1.0 / stats.tokens_per_second()).collect())[1]
    };
    let last = &prompts[prompts.len() - third..];
    (prompts.len() >= FEWEST).then(|| median(last) / median(&prompts[..third]) - 1.0)
}

fn fastest<'m>(measured: impl Iterator<Item = &'m Measurement>) -> Option<&'m Measurement> {
    let rate = |measurement: &Measurement| measurement.total().tokens_per_second();
    measured.max_by(|a, b| rate(a).total_cmp(&rate(b)))
}

/// The report in words.
pub(super) fn describe(report: &Report) -> String {
    let Header { compared, cpu, notes, .. } = &report.header;
    let cpu = cpu.as_deref().unwrap_or("unknown CPU");
    let mut text = comparison_table(&report.contenders, report.prompts);
    let left = compared.prompt_count.saturating_sub(report.prompts);
    let unfinished = if left > 0 { format!(" ({left} of them not measured)") } else { String::new() };
    let _ = writeln!(
        text,
        "\n{} prompts{unfinished}, {}, {}, {} ({cpu}, {} threads). Over constant: over {}, the fastest of those measured.",
        compared.prompt_count,
        compared.sampling,
        compared.dtype,
        compared.device,
        compared.threads,
        report.best_constant
    );
    if let Some(drift) = report.drift.filter(|drift| drift.abs() > MOST_DRIFT) {
        let (percent, how) = (100.0 * drift.abs(), if drift > 0.0 { "longer" } else { "less" });
        let _ = writeln!(
            text,
            "A token of plain decoding took {percent:.0} % {how} in the last third of the prompts than in the first."
        );
    }
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    let policies = compared
        .contenders
        .iter()
        .zip(&report.contenders)
        .filter(|(entrant, _)| entrant.role == Role::Policy);
    for (Entrant { name, .. }, row) in policies {
        if let (Some(gain), Some(rule)) = (row.gains.over_copies(), &report.best_copy_rule) {
            let _ = writeln!(text, "{name}: {gain} over {rule}, the fastest rule of those measured.");
        }
        let _ = writeln!(text, "{}", row.information());
    }
    text.push_str(&loops_table(&report.contenders, report.loop_share));
    format!("{}\n\n{}", text.trim_end(), waits_table(&report.contenders))
}
