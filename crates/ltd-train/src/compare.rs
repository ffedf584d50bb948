//! `ltd-train compare`: packages and constants side by side on live cycles.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use ltd_engine::text::TextModel;
use ltd_engine::{Engine, Learned, Sampler, SamplingParams, StopRule};
use ltd_policy::{Fallback, Policy, PolicyPackage, write_atomically};
use serde::Serialize;

use crate::cli::CompareArgs;
use crate::config::PromptSet;
use crate::evaluate::{Arena, Comparison, Contender, Measurement, comparison_table};
use crate::prompts::load_prompts;
use crate::run::{Machine, git_revision};
use crate::{Error, Interrupt, Progress, Result, TrainConfig};

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
    contenders: Vec<Comparison>,
}

/// Lets plain decoding, constants and packages decode the same prompts in turns, and prints how fast each was.
pub(crate) fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let config = TrainConfig::load(&args.config, &args.overrides)?;
    let packages: Vec<PolicyPackage> =
        args.policies.iter().map(|folder| Ok(PolicyPackage::load(folder)?)).collect::<Result<_>>()?;
    let text = TextModel::with_chat(&config.engine.target, &config.engine.chat)?;
    let engine = Engine::load(&config.engine)?;
    engine.check_text(&text)?;
    let compared = !args.any_models && !packages.is_empty();
    let models = compared.then(|| config.engine.models()).transpose()?;
    for (folder, package) in args.policies.iter().zip(&packages) {
        let (width, depth) = (engine.beam_width(), engine.max_depth());
        package.check_steers(folder, "the configuration", models.as_ref(), width, depth)?;
        if let Some(warning) = package.warning(&engine.conditions(config.sampling)) {
            eprintln!("ltd-train: warning: {}: {warning}", folder.display());
        }
    }
    let set = match &args.questions {
        Some(file) => PromptSet { file: file.clone(), skip: args.skip, take: args.limit },
        None => config.prompts.evaluation.clone(),
    };
    let prompts = load_prompts(&set, &text, &engine)?;

    let constants =
        if args.constants.is_empty() { &[config.evaluation.default][..] } else { &args.constants };
    let drafted = engine.max_depth();
    for (option, settings) in [("--constant", constants), ("--whole-beam", &args.whole_beams)] {
        if let Some(deepest) = settings.iter().map(|setting| setting.depth).find(|depth| *depth > drafted) {
            return Err(Error::Recorded(format!(
                "{option}: depth {deepest} is asked for, engine.max_depth allows {drafted}"
            )));
        }
    }
    let mut contenders = vec![Contender::autoregressive()];
    contenders.extend(constants.iter().map(|constant| {
        Contender::constant(format!("depth {}, size {}", constant.depth, constant.size), *constant)
    }));
    contenders.extend(args.whole_beams.iter().map(|setting| {
        Contender::whole_beam(format!("depth {}, size {}, whole beam", setting.depth, setting.size), *setting)
    }));
    for (folder, package) in args.policies.iter().zip(&packages) {
        let learned = if args.ignore_fallback {
            Learned::of_policy(&package.policy)
        } else {
            Learned::of_package(package)
        };
        contenders.push(Contender::new(folder.display().to_string(), Box::new(learned)));
    }
    let (interrupt, progress) = (Interrupt::listen().map_err(Error::Signal)?, Progress::detect());
    let arena = Arena {
        engine: &engine,
        stop: StopRule { max_new_tokens: config.evaluation.max_new_tokens, eos: text.eos().to_vec() },
        sampler: Sampler::new(config.sampling, config.seed)?,
        costs: None,
        interrupt: &interrupt,
        progress,
    };
    let measured = arena.measure("comparison", &mut contenders, &prompts, args.max_minutes)?;
    let Some(measured) = measured else { return Ok(ExitCode::from(crate::INTERRUPTED_EXIT_CODE)) };

    let rate = |measurement: &&Measurement| measurement.total().tokens_per_second();
    let constant = measured[1..=constants.len()].iter().max_by(|a, b| rate(a).total_cmp(&rate(b)));
    let constant = constant.expect("invariant: a constant was measured");
    let report = Report {
        command: std::env::args().collect(),
        git_revision: git_revision(),
        machine: Machine::read(),
        device: engine.device_names(),
        dtype: engine.dtype().chosen.to_string(),
        threads: tch::get_num_threads(),
        sampling: config.sampling,
        prompts: measured[0].prompts.len(),
        max_new_tokens: config.evaluation.max_new_tokens,
        best_constant: constant.name.clone(),
        contenders: measured.iter().map(|row| Comparison::new(row, &measured[0], constant)).collect(),
    };
    // First what was measured, on whatever else fails.
    print!("{}", describe(&report, &args.policies, &packages, args.ignore_fallback));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).expect("invariant: plain data") + "\n";
        write_atomically(path, json.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
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
        if let Some(Fallback { depth, size, reason }) = &package.manifest.fallback
            && !ignore_fallback
        {
            let _ = writeln!(text, "{folder} falls back to depth {depth}, size {size}: {reason}.");
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
        let _ = writeln!(text, "{}", row.information());
    }
    text
}
