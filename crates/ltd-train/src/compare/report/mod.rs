//! What a comparison found, of measurements or of the file that kept them.

mod ceiling;
mod document;
mod figures;
mod page;
mod part;
mod pictures;
mod runs;
mod side_by_side;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{note, print_result};
use ltd_engine::{CycleStats, SamplingParams};
use ltd_policy::{check_output_file, check_output_folder, write_atomically, write_json};
use ltd_run::statistics::quartiles;
use serde::Serialize;

use super::header::{Header, Share};
use super::reading::{nothing_yet, read_results};
use super::results::Turn;
use crate::{Error, Result};
use ceiling::Ceilings;
use part::{Part, Ratio};
pub(super) use runs::Run;
use side_by_side::side_by_side;

pub(super) use words::describe;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What `compare --results` kept, whole or not; parts of one comparison (`--shard`) are put
    /// together, several comparisons are reported one after another, and side by side
    #[arg(value_name = "FILE", required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Recordings of the questions (`ltd-trace record`), to tell what was possible; may be repeated
    #[arg(long = "trace", value_name = "DIR", requires = "latency")]
    pub(crate) traces: Vec<PathBuf>,
    /// Measured costs (`ltd-trace latency`) to replay them at
    #[arg(long, value_name = "FILE", requires = "traces")]
    pub(crate) latency: Option<PathBuf>,
    /// Finished training runs, whose curves and results the written report has, too; may be
    /// repeated
    #[arg(long = "run", value_name = "DIR", requires = "out")]
    pub(crate) runs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
}

/// Where reports go besides the screen.
#[derive(Debug, Clone, Args)]
pub(crate) struct Places {
    /// Write the whole report of one comparison with its figures into a folder: report.html, which
    /// a browser shows, and report.md
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write what is reported as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The files of a report.
const PAGE: &str = "report.html";
const WORDS: &str = "report.md";

impl Places {
    /// Fails unless a report can be written, elsewhere than where `others` are: what is read, and
    /// where cycles are kept.
    pub(super) fn check(&self, others: &[&Path]) -> Result<()> {
        if let Some(json) = &self.json {
            check_output_file("--json", json, others.iter().copied())?;
        }
        let Some(out) = &self.out else { return Ok(()) };
        if !out.is_dir() {
            return Ok(check_output_folder("--out", out)?);
        }
        // A report replaces the one before, and nothing else.
        let json = self.json.as_deref();
        [PAGE, WORDS].iter().try_for_each(|file| {
            let others = others.iter().copied().chain(json);
            Ok(check_output_file("--out", &out.join(file), others)?)
        })
    }
}

/// Reports what comparisons kept.
pub(crate) fn report(args: &ReportArgs) -> Result<()> {
    let read = args.results.iter().chain(&args.latency).map(PathBuf::as_path);
    args.places.check(&read.collect::<Vec<_>>())?;
    let ceilings = args.latency.as_ref().map(|latency| Ceilings::read(&args.traces, latency)).transpose()?;
    let runs: Vec<Run> = args.runs.iter().map(|folder| Run::read(folder)).collect::<Result<_>>()?;
    let mut reports = Vec::new();
    let comparisons = whole(&args.results)?;
    if args.places.out.is_some() && comparisons.len() > 1 {
        let problem = "--out takes one file of results, or the parts of one comparison; several comparisons are printed \
                       side by side".to_owned();
        return Err(Error::Recorded(problem));
    }
    let paths: Vec<PathBuf> = comparisons.iter().map(|comparison| comparison.path.clone()).collect();
    for Comparison { path, header, turns, .. } in comparisons {
        if let Some(ceilings) = &ceilings {
            ceilings.check(&header.compared)?;
        }
        let mut report = Report::of(header, &turns);
        if let Some(ceilings) = &ceilings {
            report.add_ceilings(ceilings, &turns)?;
        }
        if report.parts.is_empty() {
            let problem = "no answer in it has a cycle".to_owned();
            return Err(Error::Results { path: path.clone(), problem });
        }
        if let Some(out) = &args.places.out {
            report.write(&turns, &runs, out)?;
            note!("ltd-train: the whole report: {}", out.join(PAGE).display());
        }
        reports.push(report);
    }
    let texts = paths.iter().zip(&reports).map(|(path, report)| {
        let title = if reports.len() > 1 { format!("{}:\n\n", path.display()) } else { String::new() };
        title + &describe(report)
    });
    let mut texts: Vec<String> = texts.collect();
    if reports.len() > 1 {
        texts.push(side_by_side(&paths, &reports));
    }
    let printed = print_result(format_args!("{}", texts.join("\n")));
    match (&args.places.json, &reports[..]) {
        (Some(path), [report]) => write_json(path, report)?,
        (Some(path), reports) => write_json(path, &reports)?,
        (None, _) => (),
    }
    Ok(printed?)
}

/// A comparison as it was kept: in one file, or in those of several processes.
struct Comparison {
    /// The first of them.
    path: PathBuf,
    header: Header,
    turns: Vec<Turn>,
    /// How many these are to be, of a comparison in parts.
    of: Option<usize>,
}

/// Parts that a note names.
const MOST_NAMED: usize = 10;

/// Reads files of results, and puts the parts of one comparison together.
///
/// # Errors
/// If a file cannot be read, or nothing is measured in it, or in all parts together.
fn whole(paths: &[PathBuf]) -> Result<Vec<Comparison>> {
    let mut comparisons: Vec<(Comparison, Vec<Share>)> = Vec::new();
    for path in paths {
        let (mut header, turns, last) = read_results(path)?;
        let is_begun = !turns.is_empty() || header.compared.own_cases().next().is_none();
        let share = header.compared.shard.take();
        if share.is_none() && turns.is_empty() {
            return Err(nothing_yet(path));
        }
        // Who has nothing yet is missing.
        let shares = share.filter(|_| is_begun);
        let of = share.map(|share| share.of);
        let of_parts = |(known, _): &&mut (Comparison, Vec<Share>)| {
            of.is_some() && known.of == of && known.header.compared == header.compared
        };
        match comparisons.iter_mut().find(of_parts) {
            Some((_, shares)) if share.is_some_and(|share| shares.contains(&share)) => {
                let problem = "holds a part of the comparison that another file holds, too".to_owned();
                return Err(Error::Results { path: path.clone(), problem });
            }
            Some((known, known_shares)) => {
                known.turns.extend(turns);
                known_shares.extend(shares);
                let known = &mut known.header;
                let part = share.map_or(0, |share| share.index);
                if last != known.program {
                    known.notes.push(format!(
                        "Part {part} was measured by {last}, the first one here by {}.",
                        known.program
                    ));
                }
                for note in header.notes {
                    if !known.notes.contains(&note) {
                        known.notes.push(format!("Part {part}: {note}"));
                    }
                }
            }
            None => {
                let comparison = Comparison { path: path.clone(), header, turns, of };
                comparisons.push((comparison, shares.into_iter().collect()));
            }
        }
    }
    if let Some((nothing, _)) = comparisons.iter().find(|(comparison, _)| comparison.turns.is_empty()) {
        return Err(nothing_yet(&nothing.path));
    }
    let put_together = comparisons.into_iter().map(|(mut comparison, shares)| {
        if let Some(of) = comparison.of {
            comparison.turns.sort_by_key(|turn| (turn.case, turn.number));
            let here: BTreeSet<usize> = shares.iter().map(|share| share.index).collect();
            let mut missing = (0..of).filter(|index| !here.contains(index)).map(|index| index.to_string());
            let named: Vec<String> = missing.by_ref().take(MOST_NAMED).collect();
            let lacks = match (&named[..], missing.count()) {
                ([], _) => String::new(),
                (named, 0) => format!("; of them, {} are not here", named.join(", ")),
                (named, more) => format!("; of them, {} and {more} more are not here", named.join(", ")),
            };
            comparison
                .header
                .notes
                .push(format!("{of} processes asked a part of the questions each{lacks}."));
        }
        comparison
    });
    Ok(put_together.collect())
}

/// What was compared and how, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    header: Header,
    /// Questions that were measured with all their turns, repetitions included.
    questions: usize,
    /// How much longer a token of plain decoding took in the last third of the answers than in the
    /// first, by their medians: -0.01 is 1 % less. `null` for fewer than six answers.
    drift: Option<f64>,
    /// Contenders that failed, which are in no table.
    failed: Vec<Failure>,
    /// Each task at each temperature.
    parts: Vec<Part>,
    /// All tasks together at each temperature, if there are several.
    means: Vec<Mean>,
}

/// A contender that failed.
#[derive(Debug, Serialize)]
struct Failure {
    contender: String,
    /// Task and question.
    at: String,
    why: String,
}

/// The mean over tasks at one temperature.
#[derive(Debug, Serialize)]
struct Mean {
    sampling: SamplingParams,
    contenders: Vec<MeanRow>,
}

/// A contender in the mean over tasks.
#[derive(Debug, Serialize)]
struct MeanRow {
    name: String,
    /// Mean of the throughputs over plain decoding's.
    speedup: Ratio,
    /// Mean of the throughputs over that of each task's best static setting.
    over_static: Ratio,
    /// Mean of the acceptance lengths.
    acceptance_length: f64,
}

impl Report {
    /// What turns say, in the order of the header's contenders.
    pub(super) fn of(header: Header, turns: &[Turn]) -> Self {
        let compared = &header.compared;
        let failed = failures(&header, turns);
        let stayed = |place: &usize| {
            let name = &compared.contenders[*place].name;
            !failed.iter().any(|failure| failure.contender == *name)
        };
        let places: Vec<usize> = (0..compared.contenders.len()).filter(stayed).collect();
        let mut parts = Vec::new();
        for sampling in 0..compared.samplings.len() {
            for task in 0..compared.tasks.len() {
                let those = turns.iter().filter(|turn| (turn.task, turn.sampling) == (task, sampling));
                parts.extend(Part::of(compared, &those.collect::<Vec<_>>(), task, sampling, &places));
            }
        }
        let means = compared.samplings.iter().filter_map(|sampling| {
            let parts: Vec<&Part> = parts.iter().filter(|part| part.sampling == *sampling).collect();
            Mean::of(&parts, compared.contenders.len() - 1)
        });
        Self {
            questions: turns.iter().filter(|turn| turn.is_last()).count(),
            drift: drift(turns),
            means: means.collect(),
            failed,
            parts,
            header,
        }
    }

    /// Tells what was possible, where there are recordings.
    fn add_ceilings(&mut self, ceilings: &Ceilings, turns: &[Turn]) -> Result<()> {
        let compared = &self.header.compared;
        for part in &mut self.parts {
            let task = compared.tasks.iter().position(|task| task.name == part.task);
            let sampling = compared.samplings.iter().position(|sampling| *sampling == part.sampling);
            let (task, sampling) = task.zip(sampling).expect("invariant: a part is of the comparison");
            let ceiling = ceilings.of(compared, turns, task, sampling, part)?;
            for row in &mut part.contenders {
                row.regret = ceiling.as_ref().map(|ceiling| ceiling.regret(row.over_static.value));
                row.closed = ceiling.as_ref().and_then(|ceiling| ceiling.closed(row.over_static.value));
            }
            part.ceiling = ceiling;
        }
        Ok(())
    }

    /// Writes the whole report, as a page and in words.
    pub(super) fn write(&self, turns: &[Turn], runs: &[Run], out: &Path) -> Result<()> {
        let document = figures::document(self, turns, runs);
        std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.to_owned(), source })?;
        write_atomically(&out.join(PAGE), page::page(&document).as_bytes())?;
        Ok(write_atomically(&out.join(WORDS), document.markdown().as_bytes())?)
    }

    /// Whether there is more than one task or temperature.
    fn has_parts(&self) -> bool {
        self.header.compared.tasks.len() * self.header.compared.samplings.len() > 1
    }
}

impl Mean {
    /// Of the parts of one temperature; none of a single one.
    fn of(parts: &[&Part], comparisons: usize) -> Option<Self> {
        let (first, _) = parts.split_first().filter(|(_, others)| !others.is_empty())?;
        let row = |place: usize| {
            let ratio = |over: fn(&Part) -> &str| {
                let pairs = parts.iter().map(|part| {
                    let over = part.measured(over(part)).expect("invariant: it was measured");
                    (&part.measured[place], over)
                });
                Ratio::mean(&pairs.collect::<Vec<_>>(), comparisons)
            };
            let lengths = parts.iter().map(|part| part.contenders[place].comparison.acceptance_length);
            MeanRow {
                name: first.measured[place].name.clone(),
                speedup: ratio(|part| &part.measured[0].name),
                over_static: ratio(|part| &part.best_static),
                acceptance_length: lengths.sum::<f64>() / parts.len() as f64,
            }
        };
        let contenders = (0..first.measured.len()).map(row).collect();
        Some(Self { sampling: first.sampling, contenders })
    }
}

/// Who failed, where it first did, and why.
fn failures(header: &Header, turns: &[Turn]) -> Vec<Failure> {
    let failure = |(place, contender): (usize, &super::header::Entrant)| {
        let turn = turns.iter().find(|turn| turn.failure(place).is_some())?;
        let task = &header.compared.tasks[turn.task].name;
        Some(Failure {
            contender: contender.name.clone(),
            at: format!("{task}, question {}", turn.id),
            why: turn.failure(place).unwrap_or_default().to_owned(),
        })
    };
    header.compared.contenders.iter().enumerate().filter_map(failure).collect()
}

/// How much longer a token of plain decoding took in the last third of some turns than in the
/// first, by their medians; none for so few that the prompts themselves would tell.
fn drift(turns: &[Turn]) -> Option<f64> {
    const FEWEST: usize = 6;
    let plain = turns.iter().filter_map(|turn| turn.answer(0)).filter(|answer| !answer.outcomes.is_empty());
    let seconds: Vec<f64> = plain
        .map(|answer| {
            let mut stats = CycleStats::default();
            answer.outcomes.iter().for_each(|outcome| stats.add(outcome));
            1.0 / stats.tokens_per_second()
        })
        .collect();
    let third = seconds.len() / 3;
    let median = |seconds: &[f64]| quartiles(seconds.to_vec())[1];
    (seconds.len() >= FEWEST)
        .then(|| median(&seconds[seconds.len() - third..]) / median(&seconds[..third]) - 1.0)
}
