//! What was found, for people: Markdown that reads well unrendered.

use super::{Common, Distribution, Findings, MergedRule, Report};

pub(super) fn describe(findings: &Findings) -> String {
    let traces = findings.traces.iter().map(of_trace);
    traces.chain(findings.common_constant.iter().map(of_all)).collect::<Vec<_>>().join("\n\n")
}

fn of_trace(report: &Report) -> String {
    let cut = report.without_loops.as_deref().map(|cut| {
        let share = report.loops * 100.0;
        format!(
            "{share:.1} % of the tokens are in loops. Answers cut at their first loop:\n\n{}",
            figures(cut)
        )
    });
    std::iter::once(figures(report)).chain(cut).collect::<Vec<_>>().join("\n\n")
}

/// What was recorded: of greedy continuations each prompt has one.
fn recorded(report: &Report) -> String {
    let Report { sampling, prompts, continuations, .. } = report;
    if sampling.is_greedy() {
        format!("{prompts} prompts")
    } else {
        format!("{sampling}, {continuations} continuations of {prompts} prompts")
    }
}

fn figures(report: &Report) -> String {
    let (best, whole, rule) = (report.best_constant, report.best_whole_beam, report.best_copy_rule);
    let row = |name: &str, reached: f64| {
        let gain = (reached / best.tokens_per_second - 1.0) * 100.0;
        format!("| {name} | {reached:.1} | {gain:+.1} % |")
    };
    let constant = format!("best constant: depth {}, size {}", best.depth, best.size);
    let merged = match report.best_merged_rule {
        None => "| merged trees: the trace lacks the tokens of the candidates | | |".to_owned(),
        Some(MergedRule { copies_from, chain, merged }) => row(
            &format!(
                "{}merged with {chain} tokens where 1 matches, depth {}, size {}",
                copies_from.map_or_else(String::new, |from| format!("copies where {from} match, ")),
                merged.depth,
                merged.size
            ),
            merged.tokens_per_second,
        ),
    };
    let mut lines = vec![
        format!("{}: {}, {} positions\n", report.trace, recorded(report), report.positions),
        "| choice | tokens/s | over best constant |\n| --- | --- | --- |".to_owned(),
        row(&constant, best.tokens_per_second),
        row(
            &format!("with the whole beam: depth {}, size {}", whole.depth, whole.size),
            whole.tokens_per_second,
        ),
        row(
            &format!(
                "best copy rule: {} tokens where {} match, else depth {}, size {}",
                rule.chain, rule.match_length, rule.constant.depth, rule.constant.size
            ),
            rule.constant.tokens_per_second,
        ),
        merged,
        row("foresight of the size", report.clairvoyant_size),
        row("foresight of the depth", report.clairvoyant_depth),
        row("foresight of both", report.clairvoyant),
        row("foresight of whether to copy, by the rule's settings", report.clairvoyant_source),
        row("foresight of all three, of each cycle for itself", report.clairvoyant_cycles),
        row("foresight of all three", report.clairvoyant_copies),
    ];
    lines.extend(report.policies.iter().map(|replay| {
        let closes = replay.closed.map(|share| format!(" (closes {:.0} % of the gap)", share * 100.0));
        let name = format!("{}{}", replay.policy, closes.unwrap_or_default());
        row(&name, replay.tokens_per_second)
    }));
    if !report.policies.is_empty() {
        lines.push("\n| policy | depth | size |\n| --- | --- | --- |".to_owned());
    }
    lines.extend(report.policies.iter().map(|replay| {
        format!("| {} | {} | {} |", replay.policy, choice(&replay.depth), choice(&replay.size))
    }));
    lines.push("\ntokens/s of constants, depths down, sizes across\n".to_owned());
    lines.push(grid(report));
    lines.join("\n")
}

fn choice(distribution: &Distribution) -> String {
    if distribution.is_constant {
        format!("always {}", distribution.mean)
    } else {
        format!("{:.2} on average, standard deviation {:.2}", distribution.mean, distribution.std)
    }
}

fn grid(report: &Report) -> String {
    let mut settings = report.grid.chunk_by(|a, b| a.depth == b.depth).peekable();
    let mut lines = Vec::new();
    if let Some(first) = settings.peek() {
        let sizes: String = first.iter().map(|setting| format!(" {} |", setting.size)).collect();
        lines.push(format!("| |{sizes}\n|{}", " --- |".repeat(first.len() + 1)));
    }
    lines.extend(settings.map(|settings| {
        let cells: String =
            settings.iter().map(|setting| format!(" {:.1} |", setting.tokens_per_second)).collect();
        format!("| {} |{cells}", settings[0].depth)
    }));
    lines.join("\n")
}

fn of_all(common: &Common) -> String {
    let best = common.constant;
    let mut lines = vec![
        format!(
            "best constant of all traces together: depth {}, size {}, {:.1} tokens/s\n",
            best.depth, best.size, best.tokens_per_second
        ),
        "| trace | its own best constant | tokens/s | with the common one | lost |".to_owned(),
        "| --- | --- | --- | --- | --- |".to_owned(),
    ];
    lines.extend(common.traces.iter().map(|trace| {
        let own = trace.own;
        format!(
            "| {} | depth {}, size {} | {:.1} | {:.1} | {:.1} % |",
            trace.trace,
            own.depth,
            own.size,
            own.tokens_per_second,
            trace.common_tokens_per_second,
            trace.lost * 100.0
        )
    }));
    lines.join("\n")
}
