//! What only the whole report has: figures of time, decisions and answers.

use std::collections::BTreeMap;
use std::fmt::Write;

use ltd_policy::MAX_SIZE;

use super::document::{Block, Document};
use super::page::escaped;
use super::part::Part;
use super::pictures::{self, Cell};
use super::runs::{Run, chapter};
use super::words::{ceilings, circumstances, detail, origin, overview};
use super::{Mean, Report};
use crate::compare::header::Role;
use crate::compare::results::Turn;
use crate::evaluate::{Answer, Table};

/// Sizes of trees that a figure tells apart: up to each of these.
const SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, MAX_SIZE];

/// The whole report.
pub(super) fn document(report: &Report, turns: &[Turn], runs: &[Run]) -> Document {
    let title = format!("Comparison of {} contenders", report.header.compared.contenders.len());
    let mut document = Document { title, ..Document::default() };
    document.text(circumstances(report));
    if report.has_parts() {
        document.heading("All tasks");
        overview(report, &mut document);
        for mean in &report.means {
            mean_figure(mean, &mut document);
        }
    }
    document.table(ceilings(report));
    document.heading("Answers");
    answers(report, turns, &mut document);
    for part in &report.parts {
        document.heading(part.title());
        detail(report, part, &mut document);
        if !report.has_parts() {
            let rows = part.contenders.iter().skip(1);
            let rows = rows.map(|row| (row.comparison.name.clone(), row.over_static)).collect::<Vec<_>>();
            let caption = format!("Tokens per second over {}, {GREY}", part.best_static);
            document.picture(pictures::ratios(&rows, "over the best static setting"), caption);
        }
        categories(part, &mut document);
        time_split(part, &mut document);
        choices(part, &mut document);
    }
    document.heading("Cycles");
    times(report, turns, &mut document);
    acceptance(report, turns, &mut document);
    chapter(runs, &mut document);
    document.heading("Origin");
    document.text(origin(report));
    document
}

const GREY: &str = "with 95 % intervals over questions. Grey: may be chance, with Bonferroni's correction.";

fn mean_figure(mean: &Mean, document: &mut Document) {
    let rows: Vec<_> =
        mean.contenders.iter().skip(1).map(|row| (row.name.clone(), row.over_static)).collect();
    let caption = format!(
        "{}: tokens per second over the best static setting, mean of the tasks, {GREY}",
        mean.sampling
    );
    document.picture(pictures::ratios(&rows, "over the best static setting"), caption);
}

/// Contenders by categories of questions.
fn categories(part: &Part, document: &mut Document) {
    if part.categories.is_empty() {
        return;
    }
    let names = part.categories.iter().map(|category| format!("{} ({})", category.name, category.questions));
    let header = ["contender".to_owned()].into_iter().chain(names);
    let row = |(place, row): (usize, &super::part::Row)| {
        let cells = part.categories.iter().map(|category| {
            let row = &category.contenders[place];
            format!("{:.1} {:.2} ({:.2})", row.tokens_per_second, row.speedup, row.acceptance_length)
        });
        [row.comparison.name.clone()].into_iter().chain(cells).collect()
    };
    document.table(Table {
        caption: "By category (questions): tokens/s, over plain decoding, and acceptance length:".to_owned(),
        ..Table::new(header, part.contenders.iter().enumerate().map(row).collect())
    });
}

/// Where the time goes.
fn time_split(part: &Part, document: &mut Document) {
    let row = |row: &super::part::Row| {
        let row = &row.comparison;
        (row.name.clone(), vec![row.draft_share, row.verify_share, row.policy_share])
    };
    let rows: Vec<_> = part.contenders.iter().map(row).collect();
    let caption = "Where the time goes: the shares are in the first table of this section.";
    document.picture(pictures::shares(&rows, &["draft", "verify", "policy"]), caption);
}

/// Depths, sizes and sources that each contender chose.
fn choices(part: &Part, document: &mut Document) {
    let shares = |counts: &BTreeMap<usize, usize>| {
        let all = counts.values().sum::<usize>().max(1) as f64;
        let told: Vec<String> = counts
            .iter()
            .map(|(value, count)| format!("{value}: {:.0} %", 100.0 * *count as f64 / all))
            .collect();
        told.join(", ")
    };
    let row = |row: &super::part::Row| {
        let sources = row.sources;
        let all = (sources.tree + sources.copy + sources.merged + sources.none).max(1) as f64;
        let percent = |count: usize| format!("{:.0} %", 100.0 * count as f64 / all);
        let [tree, copy, merged, none] =
            [sources.tree, sources.copy, sources.merged, sources.none].map(percent);
        vec![
            row.comparison.name.clone(),
            tree,
            copy,
            merged,
            none,
            shares(&row.depths),
            shares(&grouped(&row.sizes)),
        ]
    };
    document.table(Table {
        caption: "What cycles drafted from, and how many had which depth, and which size at most:".to_owned(),
        ..Table::new(
            ["contender", "tree", "copy", "merged", "none", "depths", "sizes"],
            part.contenders.iter().skip(1).map(row).collect(),
        )
    });
}

/// Counts by the sizes that figures tell apart.
fn grouped(sizes: &BTreeMap<usize, usize>) -> BTreeMap<usize, usize> {
    let mut grouped = BTreeMap::new();
    for (&size, &count) in sizes.iter().filter(|(size, _)| **size > 0) {
        *grouped.entry(bound(size)).or_default() += count;
    }
    grouped
}

/// The least of the sizes that figures tell apart which a size does not exceed.
fn bound(size: usize) -> usize {
    SIZES.into_iter().find(|most| size <= *most).unwrap_or(MAX_SIZE)
}

/// All cycles of contenders of some roles.
fn cycles<'t>(
    report: &'t Report,
    turns: &'t [Turn],
    wanted: impl Fn(Role) -> bool + 't,
) -> impl Iterator<Item = ltd_engine::CycleOutcome> + 't {
    let contenders = &report.header.compared.contenders;
    let places: Vec<usize> = (0..contenders.len()).filter(|&place| wanted(contenders[place].role)).collect();
    turns.iter().flat_map(move |turn| {
        let answers: Vec<Answer> = places.iter().filter_map(|&place| turn.answer(place)).collect();
        answers.into_iter().flat_map(|answer| answer.outcomes)
    })
}

/// Means of times by a choice.
fn mean_ms(by: BTreeMap<usize, (usize, f64)>) -> Vec<(f64, f64)> {
    by.into_iter().map(|(choice, (count, ms))| (choice as f64, ms / count as f64)).collect()
}

/// Time against depth and size, of all contenders (figure 2 of arXiv 2603.01639).
fn times(report: &Report, turns: &[Turn], document: &mut Document) {
    let mut draft: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    let mut verify: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    for cycle in cycles(report, turns, |role| role != Role::Plain) {
        let add = |by: &mut BTreeMap<usize, (usize, f64)>, choice, time: std::time::Duration| {
            let entry = by.entry(choice).or_default();
            *entry = (entry.0 + 1, entry.1 + time.as_secs_f64() * 1e3);
        };
        if cycle.drafted.is_some() {
            add(&mut draft, cycle.draft_depth, cycle.timing.draft);
        }
        if cycle.verification_size > 0 {
            add(&mut verify, cycle.verification_size, cycle.timing.verify);
        }
    }
    for (by, axis, caption) in [
        (draft, "depth", "Mean time of drafting in cycles of each depth, whatever was verified."),
        (verify, "candidates verified", "Mean time of verification of each size."),
    ] {
        let line = mean_ms(by);
        if line.is_empty() {
            continue;
        }
        let row = |(choice, ms): &(f64, f64)| vec![choice.to_string(), format!("{ms:.2}")];
        let table = Table::new([axis, "ms"], line.iter().map(row).collect());
        document.picture(pictures::lines(&[("all contenders".to_owned(), line)], axis, "ms"), caption);
        document.table(Table { caption: caption.to_owned(), ..table });
    }
}

/// Accepted tokens by depth and size of policies' cycles, or of all where there is no policy
/// (figure 6 of arXiv 2603.01639).
fn acceptance(report: &Report, turns: &[Turn], document: &mut Document) {
    let policies = report.header.compared.contenders.iter().any(|entrant| entrant.role == Role::Policy);
    let wanted = |role: Role| if policies { role == Role::Policy } else { role != Role::Plain };
    let mut cells: BTreeMap<(usize, usize), (usize, f64)> = BTreeMap::new();
    for cycle in cycles(report, turns, wanted).filter(|cycle| cycle.drafted.is_some()) {
        let entry = cells.entry((cycle.draft_depth, bound(cycle.verification_size))).or_default();
        *entry = (entry.0 + 1, entry.1 + cycle.acceptance_length() as f64);
    }
    let Some(&(deepest, _)) = cells.keys().next_back() else { return };
    let sizes: Vec<usize> =
        SIZES.into_iter().filter(|size| cells.keys().any(|(_, found)| found == size)).collect();
    let row = |depth: usize| -> (String, Vec<Cell>) {
        let cell =
            |size: &usize| cells.get(&(depth, *size)).map(|(count, sum)| (*count, sum / *count as f64));
        (depth.to_string(), sizes.iter().map(cell).collect())
    };
    let rows: Vec<(String, Vec<Cell>)> = (0..=deepest).map(row).collect();
    let columns: Vec<String> = sizes.iter().map(|size| format!("up to {size}")).collect();
    let who = if policies { "policies" } else { "contenders" };
    let caption = format!(
        "Acceptance length of cycles with a tree by depth and candidates verified, of all {who}. They chose what to \
         draft by what they saw: it is no experiment."
    );
    document.picture(pictures::map(&columns, &rows, "candidates verified", "depth"), caption.clone());
    let words = |(depth, cells): (String, Vec<Cell>)| {
        let cell = |cell: Cell| {
            cell.map_or_else(String::new, |(count, mean)| {
                let cycles = if count == 1 { "cycle" } else { "cycles" };
                format!("{mean:.2} ({count} {cycles})")
            })
        };
        [depth].into_iter().chain(cells.into_iter().map(cell)).collect()
    };
    let header = ["depth".to_owned()].into_iter().chain(columns);
    document.table(Table { caption, ..Table::new(header, rows.into_iter().map(words).collect()) });
}

/// One answer of each task as the best static setting and policies said it.
fn answers(report: &Report, turns: &[Turn], document: &mut Document) {
    document.blocks.push(Block::Answer {
        html: "<p class=\"answer\"><span class=\"own\">the target's own token</span> <span class=\"drafted\">drafted</span> \
               <span class=\"copied\">copied</span> <span class=\"both\">drafted and copied</span></p>"
            .to_owned(),
        caption: "One answer of each task, cycle by cycle: a line begins a cycle, whose figures are told where one points \
                  to it and in the list below. Colours say what a token was accepted from:"
            .to_owned(),
    });
    let contenders = &report.header.compared.contenders;
    for part in report.parts.iter().filter(|part| part.sampling.is_as(&report.parts[0].sampling)) {
        let of_part = |turn: &&Turn| {
            let compared = &report.header.compared;
            compared.tasks[turn.task].name == part.task
                && compared.samplings[turn.sampling].is_as(&part.sampling)
                && turn.counts()
        };
        let Some(turn) = turns.iter().find(of_part) else { continue };
        let shown = contenders.iter().enumerate().filter(|(_, entrant)| {
            entrant.name == part.best_static || matches!(entrant.role, Role::Policy | Role::Fallback)
        });
        for (place, entrant) in shown {
            let Some(answer) = turn.answer(place) else { continue };
            let ms: f64 = answer.outcomes.iter().map(|cycle| cycle.timing.total().as_secs_f64() * 1e3).sum();
            document.blocks.push(Block::Answer {
                html: coloured(&answer, turn),
                caption: format!(
                    "{}, question {}: {} took {ms:.0} ms and {} cycles for {} tokens.",
                    part.task,
                    turn.id,
                    entrant.name,
                    answer.outcomes.len(),
                    answer.output.len()
                ),
            });
        }
    }
}

/// An answer cycle by cycle, as HTML.
fn coloured(answer: &Answer, turn: &Turn) -> String {
    let words = |token: usize| match turn.pieces.get(token) {
        // Plain decoding's words, as long as it is the same text.
        Some(piece) if answer.output[..=token] == turn.said()[..=token] => escaped(piece),
        _ => format!("[{}]", answer.output[token]),
    };
    let (mut html, mut list) = (String::new(), String::new());
    // The first token comes from reading the prompt: it is the root of the first cycle.
    let mut at = 0;
    for (number, cycle) in (1..).zip(&answer.outcomes) {
        let (drafted, copied) = (cycle.drafted.unwrap_or(0), cycle.copied.unwrap_or(0));
        let of = if cycle.drafted.is_none() {
            match cycle.verification_size {
                0 => "plain decoding".to_owned(),
                size => format!("a chain of {size} copied"),
            }
        } else {
            let merged = if cycle.copied.is_some() { " and a copied chain" } else { "" };
            format!("a tree of depth {}{merged}, {} verified", cycle.draft_depth, cycle.verification_size)
        };
        let label = format!(
            "cycle {number}: {of}; accepted {drafted} drafted and {copied} copied; {:.1} ms",
            cycle.timing.total().as_secs_f64() * 1e3
        );
        let (mut tokens, mut said) = (String::new(), String::new());
        for place in 0..cycle.acceptance_length() {
            if at >= answer.output.len() {
                break;
            }
            let class = match (place, place <= drafted, place <= copied) {
                (0, ..) => "own",
                (_, true, true) => "both",
                (_, false, true) => "copied",
                _ => "drafted",
            };
            let word = words(at);
            let _ = write!(tokens, "<span class=\"{class}\">{word}</span>");
            said += &word;
            at += 1;
        }
        let _ = write!(html, "<span class=\"cycle\" title=\"{label}\">{tokens}</span>");
        let _ = writeln!(list, "<li>{label}: <code>{said}</code></li>");
    }
    for token in at..answer.output.len() {
        let _ = write!(html, "<span class=\"own\">{}</span>", words(token));
    }
    format!(
        "<div class=\"answer\">{html}</div><details><summary>Its cycles as a list</summary><ul>\n{list}</ul></details>"
    )
}
