//! Several comparisons beside each other: two machines, two heads, two commits.

use std::fmt::Write;
use std::path::PathBuf;

use super::Report;
use super::part::{Part, Ratio};
use crate::compare::header::differing;
use crate::evaluate::Table;

/// The contenders of the first of several comparisons, in all of them, as Markdown tables, one for
/// each task at each temperature. Two that were measured on the same questions are compared
/// question by question.
pub(super) fn side_by_side(paths: &[PathBuf], reports: &[Report]) -> String {
    let files = (1..).zip(paths).map(|(number, path)| format!("{number}: {}", path.display()));
    let mut text = format!("Side by side, {}:\n", files.collect::<Vec<_>>().join(", "));
    for first in &reports[0].parts {
        let same = |part: &&Part| part.task == first.task && part.sampling.is_as(&first.sampling);
        let parts: Vec<Option<&Part>> = reports.iter().map(|report| report.parts.iter().find(same)).collect();
        if parts.iter().skip(1).all(Option::is_none) {
            continue;
        }
        if reports.iter().any(Report::has_parts) {
            let _ = writeln!(text, "\n{}:", first.title());
        }
        let _ = write!(text, "\n{}", beside(first, &parts, is_paired(reports, &parts)));
    }
    let differing = differing(reports.iter().map(|report| &report.header.compared));
    if !differing.is_empty() {
        let _ = writeln!(text, "\nThey differ in {}.", differing.join(", "));
    }
    for (number, report) in (1..).zip(reports).skip(1) {
        let names = |report: &Report| -> Vec<String> {
            report.header.compared.contenders.iter().map(|entrant| entrant.name.clone()).collect()
        };
        let known = names(&reports[0]);
        let others: Vec<String> = names(report).into_iter().filter(|name| !known.contains(name)).collect();
        if !others.is_empty() {
            let _ = writeln!(text, "Only in {number}: {}.", others.join(", "));
        }
    }
    text
}

/// Whether two were measured on the same questions.
fn is_paired(reports: &[Report], parts: &[Option<&Part>]) -> bool {
    let [one, two] = reports else { return false };
    let [Some(here), Some(there)] = parts else { return false };
    let questions = |report: &Report| {
        let task = report.header.compared.tasks.iter().find(|task| task.name == here.task);
        task.map(|task| task.sha256.clone())
    };
    questions(one) == questions(two) && here.asked == there.asked
}

/// The table of one task at one temperature.
fn beside(first: &Part, parts: &[Option<&Part>], paired: bool) -> Table {
    let numbers = (1..=parts.len()).flat_map(|number| [format!("{number}: tokens/s"), "speedup".to_owned()]);
    let ratio = paired.then(|| "2 over 1".to_owned());
    let header: Vec<String> = ["contender".to_owned()].into_iter().chain(numbers).chain(ratio).collect();
    let row = |name: &str| -> Vec<String> {
        let figures = parts.iter().flat_map(|part| {
            let row = part.and_then(|part| part.contenders.iter().find(|row| row.comparison.name == name));
            let gains = row.map(|row| &row.comparison.gains);
            let rate = gains.map(|gains| format!("{:.1}", gains.tokens_per_second));
            [rate.unwrap_or_default(), gains.map(|gains| format!("{:.2}", gains.speedup)).unwrap_or_default()]
        });
        let measured = |part: usize| parts[part].and_then(|part| part.measured(name));
        let ratio = paired.then(|| match (measured(1), measured(0)) {
            (Some(of), Some(over)) => Ratio::of(of, over, first.contenders.len()).percent(),
            _ => String::new(),
        });
        [name.to_owned()].into_iter().chain(figures).chain(ratio).collect()
    };
    let rows = first.contenders.iter().map(|contender| row(&contender.comparison.name)).collect();
    Table::new(header, rows)
}
