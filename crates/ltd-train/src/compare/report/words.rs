//! A report in words: on the screen.

use std::fmt::Write;

use ltd_console::count;

use super::ceiling::Ceiling;
use super::document::Document;
use super::part::{FEWEST_OF_A_TASK, FEWEST_QUESTIONS, Part};
use super::{Mean, Report};
use crate::compare::header::{Entrant, Role};
use crate::evaluate::{Table, comparison_table, loops_table, percent, waits_table};

/// Drift of plain decoding that is told.
const MOST_DRIFT: f64 = 0.05;

/// The report as one reads it on the screen: everything of a single task, else a table of all.
pub(crate) fn describe(report: &Report) -> String {
    let mut document = Document::default();
    if report.has_parts() {
        overview(report, &mut document);
        document.text(circumstances(report));
    } else {
        for part in &report.parts {
            detail(report, part, &mut document);
        }
    }
    document.table(ceilings(report));
    document.markdown()
}

/// Tables of all tasks: how much faster than plain decoding, and than the best static setting.
pub(super) fn overview(report: &Report, document: &mut Document) {
    for sampling in &report.header.compared.samplings {
        let parts: Vec<&Part> = report.parts.iter().filter(|part| part.sampling == *sampling).collect();
        let mean = report.means.iter().find(|mean| mean.sampling == *sampling);
        let Some(first) = parts.first() else { continue };
        let tasks = [sampling.to_string()].into_iter().chain(parts.iter().map(|part| part.task.clone()));
        let tasks: Vec<String> = tasks.chain(mean.map(|_| "mean".to_owned())).collect();
        let names = first.contenders.iter().map(|row| row.comparison.name.clone());
        let rows = |cell: &dyn Fn(&Part, usize) -> String, of_mean: &dyn Fn(&Mean, usize) -> String| {
            let row = |(place, name): (usize, String)| {
                let cells = parts.iter().map(|part| cell(part, place));
                [name].into_iter().chain(cells).chain(mean.map(|mean| of_mean(mean, place))).collect()
            };
            names.clone().enumerate().map(row).collect::<Vec<Vec<String>>>()
        };
        let speedup = |part: &Part, place: usize| {
            let row = &part.contenders[place].comparison;
            format!("{:.2} ({:.2})", row.gains.speedup, row.acceptance_length)
        };
        let mean_speedup = |mean: &Mean, place: usize| {
            let row = &mean.contenders[place];
            format!("{:.2} ({:.2})", row.speedup.value, row.acceptance_length)
        };
        document.table(Table {
            caption:
                "Tokens per second over plain decoding's, and acceptance length, the target's own token \
                      counted:"
                    .to_owned(),
            ..Table::new(tasks.clone(), rows(&speedup, &mean_speedup))
        });
        let gain = |part: &Part, place: usize| part.contenders[place].over_static.percent();
        let mean_gain = |mean: &Mean, place: usize| mean.contenders[place].over_static.percent();
        document.table(Table {
            caption: "Over the best static setting of each task, copies included, with 95 % intervals:"
                .to_owned(),
            ..Table::new(tasks, rows(&gain, &mean_gain))
        });
        let best: Vec<String> =
            parts.iter().map(|part| format!("{}: {}", part.task, part.best_static)).collect();
        document.text(format!("The best static setting of those measured: {}.", best.join("; ")));
    }
    let comparisons = report.header.compared.contenders.len() - 1;
    document.text(format!(
        "A star: faster or slower also with Bonferroni's correction for {comparisons} contenders, of \
         {FEWEST_QUESTIONS} questions at least, and {FEWEST_OF_A_TASK} of each task. The best static setting is chosen \
         with hindsight on the same questions."
    ));
}

/// Everything of one task at one temperature.
pub(super) fn detail(report: &Report, part: &Part, document: &mut Document) {
    let rows: Vec<_> = part.contenders.iter().map(|row| row.comparison.clone()).collect();
    document.table(comparison_table(&rows, part.answers));
    let mut text = format!("Over constant: over {}, the fastest of those measured.\n", part.best_constant);
    if part.ended_early > 0 {
        let ended = count(part.ended_early, "question");
        let _ = writeln!(text, "{ended} ended early, as the next turn does not fit the caches.");
    }
    if !report.has_parts() {
        text.push_str(&circumstances(report));
    }
    text.push_str(&policies(report, part));
    document.text(text);
    document.table(loops_table(&rows, part.loop_share));
    document.table(waits_table(&rows));
}

/// What was possible on each task that was recorded, and what of it contenders leave.
pub(super) fn ceilings(report: &Report) -> Option<Table> {
    let parts: Vec<(&Part, &Ceiling)> =
        report.parts.iter().filter_map(|part| Some((part, part.ceiling.as_ref()?))).collect();
    let (first, _) = parts.first()?;
    let header = parts.iter().map(|(part, _)| part.title());
    let foresight = parts.iter().map(|(_, ceiling)| format!("{} %", percent(ceiling.over_static)));
    let foresight: Vec<String> = ["foresight".to_owned()].into_iter().chain(foresight).collect();
    let row = |place: usize| -> Vec<String> {
        let cells = parts.iter().map(|(part, _)| {
            let row = &part.contenders[place];
            let closed = row.closed.map(|closed| format!(" ({:.0} %)", 100.0 * closed));
            let regret = row.regret.map(|regret| format!("{:.0} %", 100.0 * regret));
            regret.unwrap_or_default() + &closed.unwrap_or_default()
        });
        [first.contenders[place].comparison.name.clone()].into_iter().chain(cells).collect()
    };
    let rows = [foresight].into_iter().chain((1..first.contenders.len()).map(row));
    let answers: Vec<String> = parts.iter().map(|(_, ceiling)| ceiling.answers.to_string()).collect();
    Some(Table {
        caption: format!(
            "What foresight of source, depth, size and chain gains over the best static setting, by replay of {} recorded \
             answers; then the share of that throughput which each contender leaves, and in brackets the share of the \
             way to it that it goes:",
            answers.join(", ")
        ),
        ..Table::new(["contender".to_owned()].into_iter().chain(header), rows.collect())
    })
}

/// What was measured, where, and what is to be known of it.
pub(super) fn circumstances(report: &Report) -> String {
    let compared = &report.header.compared;
    let cpu = report.header.cpu.as_deref().unwrap_or("unknown CPU");
    let cases = compared.cases();
    let left = cases.saturating_sub(report.questions);
    let unfinished = if left > 0 { format!(" ({left} of them not measured)") } else { String::new() };
    let samplings: Vec<String> = compared.samplings.iter().map(ToString::to_string).collect();
    let questions = compared.tasks.iter().map(|task| task.questions).sum();
    let often = if cases > questions { format!(", asked {cases} times in all") } else { String::new() };
    let mut text = format!(
        "{}{often}{unfinished}, answers of at most {} tokens, {}, {}, {} ({cpu}, {} threads).\n",
        count(questions, "question"),
        compared.max_new_tokens,
        samplings.join(" and "),
        compared.dtype,
        compared.device,
        compared.threads,
    );
    for failure in &report.failed {
        let _ = writeln!(
            text,
            "{} failed and is in no table: {}: {}",
            failure.contender, failure.at, failure.why
        );
    }
    if let Some(drift) = report.drift.filter(|drift| drift.abs() > MOST_DRIFT) {
        let (percent, how) = (100.0 * drift.abs(), if drift > 0.0 { "longer" } else { "less" });
        let _ = writeln!(
            text,
            "A token of plain decoding took {percent:.0} % {how} in the last third of the answers than in the first."
        );
    }
    for note in &report.header.notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

/// What measured, which models, when and by which command.
pub(super) fn origin(report: &Report) -> String {
    let header = &report.header;
    let models = match &header.models[..] {
        [target, draft] => format!("Target {target}, draft {draft}. "),
        _ => String::new(),
    };
    let begun = header.begun.as_ref().map_or_else(String::new, |begun| format!(", begun {begun}"));
    format!("{models}Measured by {}{begun}:\n{}", header.program, header.command.join(" "))
}

/// What policies gain, and what their choices tell.
fn policies(report: &Report, part: &Part) -> String {
    let mut text = String::new();
    let policies = part.contenders.iter().filter(|row| {
        let is_policy =
            |entrant: &Entrant| entrant.name == row.comparison.name && entrant.role == Role::Policy;
        report.header.compared.contenders.iter().any(is_policy)
    });
    for row in policies {
        let name = &row.comparison.name;
        if let (Some(gain), Some(rule)) = (row.comparison.gains.over_copies(), &part.best_copy_rule) {
            let _ = writeln!(text, "{name}: {gain} over {rule}, the fastest rule of those measured.");
        }
        for gain in part.over_published.iter().filter(|gain| gain.of == *name) {
            let (percent, over) = (gain.ratio.percent(), &gain.over);
            let _ = writeln!(
                text,
                "{name}: {percent} over {over}, the fastest published rule of those measured."
            );
        }
        let _ = writeln!(text, "{}", row.comparison.information());
    }
    text
}
