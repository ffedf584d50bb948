//! What a comparison found, of measurements or of the file that kept them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::print_result;
use ltd_engine::CycleStats;
use ltd_policy::{check_output_file, write_json};
use ltd_run::statistics::{quartiles, ratio_interval};
use serde::Serialize;

use crate::evaluate::{
    Comparison, Entrant, Header, Measurement, NOTHING_YET, Opposition, Role, Tally, comparison_table,
    differing, loops_table, percent, read_results, table, waits_table,
};
use crate::{Error, Result};

/// Drift of plain decoding that is told.
const MOST_DRIFT: f64 = 0.05;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What `compare --results` kept, whole or not; several are reported one after another, and
    /// side by side
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
    let (mut reports, mut measurements) = (Vec::new(), Vec::new());
    for path in &args.results {
        let (header, answers) = read_results(path)?;
        let mut tally = Tally::new(header.compared.contenders.iter().map(|entrant| entrant.name.clone()));
        for answers in answers {
            tally.add(answers);
        }
        if tally.measured == 0 {
            return Err(Error::Results { path: path.clone(), problem: NOTHING_YET.to_owned() });
        }
        let measured = tally.finish();
        reports.push(Report::of(header, &measured));
        measurements.push(measured);
    }
    let texts = args.results.iter().zip(&reports).map(|(path, report)| {
        let title = if reports.len() > 1 { format!("{}:\n\n", path.display()) } else { String::new() };
        title + &describe(report)
    });
    let mut texts: Vec<String> = texts.collect();
    if reports.len() > 1 {
        texts.push(side_by_side(&args.results, &reports, &measurements));
    }
    let printed = print_result(format_args!("{}", texts.join("\n")));
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
    /// What each policy gains over the fastest published rule; empty without one.
    over_published: Vec<Gain>,
}

/// How much faster a contender is than another one.
#[derive(Debug, Serialize)]
struct Gain {
    of: String,
    over: String,
    /// Throughput of the one over that of the other.
    ratio: f64,
    /// 95 % interval of it (bootstrap over prompts, both together).
    interval: [f64; 2],
}

impl Gain {
    fn new(of: &Measurement, over: &Measurement) -> Self {
        let rate = |measured: &Measurement| measured.total().tokens_per_second();
        let (low, high) = ratio_interval(&of.prompts, &over.prompts);
        let [name, other] = [of, over].map(|measured| measured.name.clone());
        Self { of: name, over: other, ratio: rate(of) / rate(over), interval: [low, high] }
    }

    fn percent(&self) -> String {
        let [low, high] = self.interval.map(percent);
        format!("{} % ({low} .. {high})", percent(self.ratio))
    }
}

impl Report {
    /// What measurements say, in the order of the header's contenders.
    pub(super) fn of(header: Header, measured: &[Measurement]) -> Self {
        let entrants = &header.compared.contenders;
        let with = |role: Role| {
            let measured = entrants.iter().zip(measured);
            fastest(measured.filter(move |(entrant, _)| entrant.role == role).map(|(_, measured)| measured))
        };
        let (constant, rule, published) = (with(Role::Constant), with(Role::Rule), with(Role::Published));
        let policies = entrants.iter().zip(measured).filter(|(entrant, _)| entrant.role == Role::Policy);
        let over_published =
            published.map(|published| policies.map(|(_, policy)| Gain::new(policy, published)).collect());
        let over_published = over_published.unwrap_or_default();
        let constant = constant.expect("invariant: a constant was measured");
        let opposition = Opposition { plain: &measured[0], constant, rule };
        Self {
            prompts: measured[0].prompts.len(),
            best_constant: constant.name.clone(),
            best_copy_rule: rule.map(|rule| rule.name.clone()),
            loop_share: measured[0].loop_share(),
            drift: drift(&measured[0].prompts),
            contenders: measured.iter().map(|row| Comparison::new(row, opposition)).collect(),
            over_published,
            header,
        }
    }
}

/// The contenders of the first of several comparisons, in all of them, as a Markdown table. Two
/// that were measured on the same prompts are compared prompt by prompt.
fn side_by_side(paths: &[PathBuf], reports: &[Report], measurements: &[Vec<Measurement>]) -> String {
    let paired = reports.len() == 2
        && reports[0].header.compared.prompts == reports[1].header.compared.prompts
        && reports[0].prompts == reports[1].prompts;
    let numbers =
        (1..=reports.len()).flat_map(|number| [format!("{number}: tokens/s"), "speedup".to_owned()]);
    let ratio = paired.then(|| "2 over 1".to_owned());
    let header: Vec<String> = ["contender".to_owned()].into_iter().chain(numbers).chain(ratio).collect();
    let row = |(number, row): (usize, &Comparison)| -> Vec<String> {
        let find = |report: &Report| report.contenders.iter().position(|other| other.name == row.name);
        let places: Vec<Option<usize>> = reports.iter().map(find).collect();
        let figures = reports.iter().zip(&places).flat_map(|(report, place)| {
            let gains = place.map(|place| &report.contenders[place].gains);
            let rate = gains.map(|gains| format!("{:.1}", gains.tokens_per_second));
            [rate.unwrap_or_default(), gains.map(|gains| format!("{:.2}", gains.speedup)).unwrap_or_default()]
        });
        let ratio = match places[..] {
            [_, Some(other)] if paired => {
                vec![Gain::new(&measurements[1][other], &measurements[0][number]).percent()]
            }
            _ if paired => vec![String::new()],
            _ => Vec::new(),
        };
        [row.name.clone()].into_iter().chain(figures).chain(ratio).collect()
    };
    let rows = reports[0].contenders.iter().enumerate().map(row).collect();
    let files = (1..).zip(paths).map(|(number, path)| format!("{number}: {}", path.display()));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut text =
        format!("Side by side, {}:\n\n{}", files.collect::<Vec<_>>().join(", "), table(&header, rows));
    let differing = differing(reports.iter().map(|report| &report.header.compared));
    if !differing.is_empty() {
        let _ = writeln!(text, "\nThey differ in {}.", differing.join(", "));
    }
    for (number, report) in (1..).zip(reports).skip(1) {
        let known = |name: &str| reports[0].contenders.iter().any(|row| row.name == name);
        let others = report.contenders.iter().map(|row| row.name.as_str()).filter(|name| !known(name));
        let others: Vec<&str> = others.collect();
        if !others.is_empty() {
            let _ = writeln!(text, "Only in {number}: {}.", others.join(", "));
        }
    }
    text
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
        for gain in report.over_published.iter().filter(|gain| gain.of == *name) {
            let (percent, over) = (gain.percent(), &gain.over);
            let _ = writeln!(
                text,
                "{name}: {percent} over {over}, the fastest published rule of those measured."
            );
        }
        let _ = writeln!(text, "{}", row.information());
    }
    text.push_str(&loops_table(&report.contenders, report.loop_share));
    format!("{}\n\n{}", text.trim_end(), waits_table(&report.contenders))
}
