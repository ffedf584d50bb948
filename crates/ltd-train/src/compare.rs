//! `ltd-train compare`: packages and constants side by side on live cycles.

use std::fmt::Write;
use std::path::PathBuf;

use crate::arguments::count;
use clap::Args;
use ltd_console::{note, print_result};
use ltd_engine::text::{Prompt, TextModel};
use ltd_engine::{Engine, Learned, Sampler, SamplingParams, StopRule};
use ltd_policy::{CopyRule, MAX_SIZE, Policy, PolicyPackage, check_output_file, write_json};
use serde::Serialize;

use crate::evaluate::{
    Arena, Comparison, Contender, FixedSetting, Measurement, Opposition, comparison_table, loops_table,
};
use crate::published::Published;
use crate::{Error, Result};
use ltd_run::config::{Minutes, PromptSet, StaticSetting};
use ltd_run::interrupt::listen;
use ltd_run::machine::{Machine, git_revision};
use ltd_run::prompts::{Prompts, check_fit, load_prompts, questions, shared};
use ltd_run::{Interrupt, Progress, TrainConfig};

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Configuration of a training run: models, dtype, length of answers, prompts of the evaluation
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set engine.dtype=f32`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Policy package; may be repeated
    #[arg(long = "policy", value_name = "DIR")]
    pub(crate) policies: Vec<PathBuf>,
    /// Constant depth and size; may be repeated [default: the configuration's evaluation.default]
    #[arg(long = "constant", value_name = "DEPTH,SIZE", value_parser = constant)]
    pub(crate) constants: Vec<StaticSetting>,
    /// Constant whose levels expand the whole beam, as EAGLE-3 drafts; may be repeated
    #[arg(long = "whole-beam", value_name = "DEPTH,SIZE", value_parser = constant)]
    pub(crate) whole_beams: Vec<StaticSetting>,
    /// Rule of copies, with the constant trees between them: copy TOKENS where MATCH of the latest
    /// ones were said before; may be repeated
    #[arg(long = "copy-rule", value_name = "MATCH,TOKENS,DEPTH,SIZE", value_parser = copy_rule)]
    pub(crate) copy_rules: Vec<FixedSetting>,
    /// Published rules by name, separated by commas, or `all` (docs/contenders.md)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) contenders: Vec<String>,
    /// Measured costs (`ltd-trace latency`), for those of them that weigh costs
    #[arg(long, value_name = "FILE", requires = "contenders")]
    pub(crate) latency: Option<PathBuf>,
    /// Compare packages of other models too, as an experiment
    #[arg(long)]
    pub(crate) any_models: bool,
    /// Let the policies of packages decide that fall back to a fixed setting
    #[arg(long)]
    pub(crate) ignore_fallback: bool,
    /// Prompts, in FastChat's question.jsonl form [default: the configuration's for the evaluation]
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// Prompts to pass over
    #[arg(long, value_name = "N", default_value_t = 0, requires = "questions")]
    pub(crate) skip: usize,
    /// Prompts to decode [default: all]
    #[arg(long, value_name = "N", requires = "questions", value_parser = count())]
    pub(crate) limit: Option<usize>,
    /// End after this time, at a prompt's end
    #[arg(long, value_name = "M")]
    pub(crate) max_minutes: Option<Minutes>,
    /// Write everything measured
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn constant(text: &str) -> Result<StaticSetting, String> {
    let parts = text.split_once(',').and_then(|(depth, size)| {
        Some(StaticSetting { depth: depth.trim().parse().ok()?, size: size.trim().parse().ok()? })
    });
    match parts {
        Some(setting) if (1..=MAX_SIZE).contains(&setting.size) => Ok(setting),
        _ => Err(format!("expected a depth and a size within 1..={MAX_SIZE}, such as 3,24")),
    }
}

fn copy_rule(text: &str) -> Result<FixedSetting, String> {
    let numbers = text.split(',').map(|part| part.trim().parse().ok());
    let numbers: Option<Vec<usize>> = numbers.collect();
    let Some(&[match_length, chain, depth, size]) = numbers.as_deref() else {
        return Err("expected four numbers, such as 2,8,1,4".to_owned());
    };
    let rule = CopyRule { match_length, chain };
    if let Some((field, possible, found)) = rule.problem() {
        let field = if field == "chain" { "TOKENS" } else { "MATCH" };
        return Err(format!("{field} is {found}, expected {possible:?}"));
    }
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(format!("SIZE is {size}, expected 1..={MAX_SIZE}"));
    }
    Ok(FixedSetting { depth, size, copies: Some(rule) })
}

/// What was compared and how, for programs.
#[derive(Debug, Serialize)]
struct Report {
    command: Vec<String>,
    git_revision: Option<String>,
    machine: Machine,
    device: String,
    dtype: String,
    threads: i32,
    sampling: SamplingParams,
    prompts: usize,
    max_new_tokens: usize,
    /// The constant that the others are measured against: the fastest here.
    best_constant: String,
    /// The rule of copies that the others are measured against: the fastest here; `null` without
    /// one.
    best_copy_rule: Option<String>,
    /// Share of plain decoding's tokens that are in loops.
    loop_share: f64,
    contenders: Vec<Comparison>,
}

/// Lets plain decoding, constants and packages decode the same prompts in turns, and prints how
/// fast each was.
pub(crate) fn compare(args: &CompareArgs) -> Result<()> {
    if let Some(path) = &args.json {
        check_output_file("--json", path)?;
    }
    let mut config = TrainConfig::load(&args.config, &args.overrides)?;
    let published = Published::find(&args.contenders, args.latency.as_deref())?;
    let packages: Vec<PolicyPackage> =
        args.policies.iter().map(|folder| Ok(PolicyPackage::load(folder)?)).collect::<Result<_>>()?;
    if let Some((first, others)) = packages.split_first()
        && others.iter().all(|other| other.manifest.dtype == first.manifest.dtype)
    {
        let dtype = config.engine.dtype.or_of_package(&first.manifest.dtype);
        config.engine.dtype =
            dtype.map_err(|problem| Error::Recorded(format!("{}: {problem}", args.policies[0].display())))?;
    }
    let text = TextModel::of(&config.engine)?;
    let engine = Engine::open(&config.engine, &text)?;
    for warning in engine.warnings() {
        note!("ltd-train: warning: {warning}");
    }
    let compared = !args.any_models && !packages.is_empty();
    let models = compared.then(|| config.engine.models()).transpose()?;
    for (folder, package) in args.policies.iter().zip(&packages) {
        let (width, depth) = (engine.beam_width(), engine.max_depth());
        package.check_steers(folder, "the configuration", models.as_ref(), width, depth)?;
        if let Some(warning) = package.warning(&engine.conditions(config.sampling)) {
            note!("ltd-train: warning: {}: {warning}", folder.display());
        }
    }
    if let Some(table) = published.costs() {
        let differences = table.identity.conditions().differences(&engine.conditions(config.sampling));
        if !differences.is_empty() {
            note!("ltd-train: warning: --latency was measured with {}", differences.join(", "));
        }
    }
    let prompts = prompts(args, &config, &text, &engine)?;

    let constants =
        if args.constants.is_empty() { &[config.evaluation.default][..] } else { &args.constants };
    let drafted = engine.max_depth();
    let depths = |settings: &[StaticSetting]| settings.iter().map(|setting| setting.depth).collect();
    let depths: [(&str, Vec<usize>); 3] = [
        ("--constant", depths(constants)),
        ("--whole-beam", depths(&args.whole_beams)),
        ("--copy-rule", args.copy_rules.iter().map(|setting| setting.depth).collect()),
    ];
    for (option, depths) in depths {
        if let Some(deepest) = depths.into_iter().find(|depth| *depth > drafted) {
            return Err(Error::Recorded(format!(
                "{option}: depth {deepest} is asked for, engine.max_depth allows {drafted}"
            )));
        }
    }
    let mut contenders = contenders(args, constants, &packages);
    contenders.extend(published.contenders(&engine, &prompts[0].ids)?);
    let (interrupt, progress) = (Interrupt::default(), Progress::detect());
    listen(&interrupt)?;
    let arena = Arena {
        engine: &engine,
        stop: StopRule { max_new_tokens: config.evaluation.max_new_tokens, eos: text.eos().to_vec() },
        sampler: Sampler::new(config.sampling, config.seed)?,
        costs: None,
        interrupt: &interrupt,
        progress,
    };
    let measured =
        arena.measure("comparison", &mut contenders, &prompts, args.max_minutes.map(Minutes::duration))?;
    if let Some(warning) = engine.late_warning() {
        note!("ltd-train: warning: {warning}");
    }
    let (constants, others) = measured[1..].split_at(constants.len());
    let rules = &others[args.whole_beams.len()..][..args.copy_rules.len()];
    let constant = fastest(constants).expect("invariant: a constant was measured");
    let rule = fastest(rules);
    let opposition = Opposition { plain: &measured[0], constant, rule };
    let report = Report {
        command: std::env::args().collect(),
        git_revision: git_revision(),
        machine: Machine::read(),
        device: engine.runs_on(),
        dtype: engine.dtype().chosen.to_string(),
        threads: tch::get_num_threads(),
        sampling: config.sampling,
        prompts: measured[0].prompts.len(),
        max_new_tokens: config.evaluation.max_new_tokens,
        best_constant: constant.name.clone(),
        best_copy_rule: rule.map(|rule| rule.name.clone()),
        loop_share: measured[0].loop_share(),
        contenders: measured.iter().map(|row| Comparison::new(row, opposition)).collect(),
    };
    // Whichever of both fails, the other one has what was measured.
    let text = describe(&report, &args.policies, &packages, args.ignore_fallback);
    let printed = print_result(format_args!("{text}"));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(printed?)
}

fn fastest(measured: &[Measurement]) -> Option<&Measurement> {
    let rate = |measurement: &Measurement| measurement.total().tokens_per_second();
    measured.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))
}

/// Plain decoding, constants, those with the whole beam, rules and packages, in this order.
fn contenders(args: &CompareArgs, constants: &[StaticSetting], packages: &[PolicyPackage]) -> Vec<Contender> {
    let mut contenders = vec![Contender::autoregressive()];
    contenders.extend(constants.iter().map(|constant| {
        Contender::constant(format!("depth {}, size {}", constant.depth, constant.size), *constant)
    }));
    contenders.extend(args.whole_beams.iter().map(|setting| {
        Contender::whole_beam(format!("depth {}, size {}, whole beam", setting.depth, setting.size), *setting)
    }));
    let rules = args.copy_rules.iter().map(|setting| Contender::fixed(setting.to_string(), *setting));
    contenders.extend(rules);
    for (folder, package) in args.policies.iter().zip(packages) {
        let learned = if args.ignore_fallback {
            Learned::of_policy(&package.policy)
        } else {
            Learned::of_package(package)
        };
        contenders.push(Contender::new(folder.display().to_string(), Box::new(learned)));
    }
    contenders
}

/// The prompts to decode. Those of the configuration are apart from what it learns from; of others,
/// it is said.
fn prompts(
    args: &CompareArgs,
    config: &TrainConfig,
    text: &TextModel,
    engine: &Engine,
) -> Result<Vec<Prompt>> {
    let known = Prompts::read(&config.prompts, text)?;
    let Some(file) = &args.questions else {
        check_fit(&config.prompts.evaluation, &known.evaluation, engine)?;
        return Ok(known.evaluation);
    };
    let set = PromptSet { file: file.clone(), skip: args.skip, take: args.limit };
    let prompts = load_prompts(&set, text, engine)?;
    for (name, others) in [("train", &known.train), ("validation", &known.validation)] {
        if let Some(shared) = shared(questions(&prompts), questions(others)) {
            note!(
                "ltd-train: warning: {} has {shared} of prompts.{name}: results on prompts that were learned from are too good",
                file.display()
            );
        }
    }
    Ok(prompts)
}

fn describe(
    report: &Report,
    folders: &[PathBuf],
    packages: &[PolicyPackage],
    ignore_fallback: bool,
) -> String {
    let cpu = report.machine.cpu.as_deref().unwrap_or("unknown CPU");
    let mut text = comparison_table(&report.contenders, report.prompts);
    let _ = writeln!(
        text,
        "\n{} prompts, {}, {}, {} ({cpu}, {} threads). Over constant: over {}, the fastest of those measured.",
        report.prompts, report.sampling, report.dtype, report.device, report.threads, report.best_constant
    );
    let rows = &report.contenders[report.contenders.len() - packages.len()..];
    for ((folder, package), row) in folders.iter().zip(packages).zip(rows) {
        let folder = folder.display();
        if let Some(fallback) = &package.manifest.fallback
            && !ignore_fallback
        {
            let _ = writeln!(text, "{folder} falls back to {fallback}: {}.", fallback.reason);
            continue;
        }
        if let Policy::Factored(factored) = &package.policy {
            let measured = &factored.latency.identity;
            let _ = writeln!(
                text,
                "{folder} decides by times measured on {} ({}, {}, {} threads).",
                measured.machine, measured.device, measured.dtype, measured.threads
            );
        }
        if let (Some(gain), Some(rule)) = (row.gains.over_copies(), &report.best_copy_rule) {
            let _ = writeln!(text, "{folder}: {gain} over {rule}, the fastest rule of those measured.");
        }
        let _ = writeln!(text, "{}", row.information());
    }
    text.push_str(&loops_table(&report.contenders, report.loop_share));
    text
}
