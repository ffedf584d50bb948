//! `ltd-train compare`: packages, constants and published rules side by side on live cycles.

mod published;
mod report;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::arguments::count;
use clap::Args;
use ltd_console::{note, print_result};
use ltd_engine::text::{Prompt, TextModel};
use ltd_engine::{Engine, Learned, Sampler, Static, StopRule};
use ltd_policy::{
    CopyRule, MAX_SIZE, Models, Policy, PolicyPackage, check_output_file, sha256_hex, write_json,
};

use crate::evaluate::{
    Arena, Compared, Contender, Entrant, FixedSetting, Header, Results, Role, read_header,
};
use crate::{Error, Result};
use ltd_run::config::{Minutes, PromptSet, StaticSetting};
use ltd_run::interrupt::listen;
use ltd_run::machine::{Machine, device_model, git_revision};
use ltd_run::prompts::{Prompts, check_fit, load_prompts, questions, shared};
use ltd_run::{Interrupt, Progress, TrainConfig};

pub(crate) use report::{ReportArgs, report};

use published::Published;
use report::{Report, check_places, describe};

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
    /// What published rules keep constant of a tree [default: as published, depth 7 and size 59 or
    /// 60]
    #[arg(long, value_name = "DEPTH,SIZE", value_parser = constant, requires = "contenders")]
    pub(crate) contender_trees: Option<StaticSetting>,
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
    /// Keep every cycle in a file of JSON lines, prompt by prompt, and go on with what is there
    #[arg(long, value_name = "FILE")]
    pub(crate) results: Option<PathBuf>,
    /// Write what is reported as JSON
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

/// Lets plain decoding, constants and packages decode the same prompts in turns, and prints how
/// fast each was.
pub(crate) fn compare(args: &CompareArgs) -> Result<()> {
    check_places(args.json.as_ref(), &args.results)?;
    args.results.iter().try_for_each(|path| check_output_file("--results", path))?;
    let begun = args.results.as_ref().map(|path| read_header(path)).transpose()?.flatten();
    let mut config = TrainConfig::load(&args.config, &args.overrides)?;
    let trees = args.contender_trees.map(|StaticSetting { depth, size }| Static { depth, size });
    let published = Published::find(&args.contenders, args.latency.as_deref(), trees)?;
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
    let models = config.engine.models()?;
    let asked = (!args.any_models).then_some(&models);
    for (folder, package) in args.policies.iter().zip(&packages) {
        let (width, depth) = (engine.beam_width(), engine.max_depth());
        package.check_steers(folder, "the configuration", asked, width, depth)?;
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
    let published = published.contenders(&engine, &prompts[0].ids, begun.as_ref())?;
    let (entrants, mut contenders): (Vec<Entrant>, Vec<Contender>) =
        contenders(args, constants, published, &packages).into_iter().unzip();
    let mut names = BTreeSet::new();
    if let Some(twice) = entrants.iter().find(|entrant| !names.insert(entrant.name.as_str())) {
        return Err(Error::Recorded(format!("{} takes part twice", twice.name)));
    }
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
    let header = Header {
        compared: what_is_compared(&config, &engine, &models, text.eos(), &prompts, entrants),
        program: format!("ltd-train {}", env!("CARGO_PKG_VERSION")),
        git_revision: git_revision(),
        cpu: Machine::read().cpu,
        command: std::env::args().collect(),
        notes: notes(args, &packages),
    };
    let (mut results, header) = open_results(args, header, prompts.len(), progress)?;
    let limit = args.max_minutes.map(Minutes::duration);
    let measured = arena.measure_into("comparison", &mut contenders, &prompts, limit, results.as_mut());
    if let (Err(error), Some(kept), Some(path)) = (&measured, &results, &args.results)
        && error.is_interrupt()
    {
        let (kept, all) = (kept.len(), prompts.len());
        note!("ltd-train: {kept} of {all} prompts are in {}; the same command goes on", path.display());
    }
    let measured = measured?;
    if let Some(warning) = engine.late_warning() {
        note!("ltd-train: warning: {warning}");
    }
    let report = Report::of(header, &measured);
    // Whichever of both fails, the other one has what was measured.
    let printed = print_result(format_args!("{}", describe(&report)));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(printed?)
}

/// The file of results, if there is to be one, and its header.
fn open_results(
    args: &CompareArgs,
    header: Header,
    prompts: usize,
    progress: Progress,
) -> Result<(Option<Results>, Header)> {
    let Some(path) = &args.results else { return Ok((None, header)) };
    let [program, revision] = [header.program.clone(), header.git_revision.clone().unwrap_or_default()];
    let (results, header) = Results::open(path, header)?;
    if results.len() > 0 {
        progress.say(&format!("{} of {prompts} prompts are in {}", results.len(), path.display()));
        if header.program != program || header.git_revision.as_ref().is_some_and(|found| *found != revision) {
            let found = header.git_revision.as_deref().unwrap_or("an unknown revision");
            progress.say(&format!(
                "warning: they are of {} ({found}), another program than this",
                header.program
            ));
        }
    }
    Ok((Some(results), header))
}

/// What all cycles of a comparison have in common.
fn what_is_compared(
    config: &TrainConfig,
    engine: &Engine,
    models: &Models,
    eos: &[u32],
    prompts: &[Prompt],
    contenders: Vec<Entrant>,
) -> Compared {
    let tokens: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt.ids[..]).collect();
    let tokens = serde_json::to_string(&tokens).expect("invariant: numbers are JSON");
    Compared {
        version: Compared::VERSION,
        target: models.target.sha256.clone(),
        draft: models.draft.sha256.clone(),
        device: engine.runs_on(),
        machine: device_model(&engine.device_names()),
        dtype: engine.dtype().chosen.to_string(),
        threads: tch::get_num_threads(),
        sampling: config.sampling,
        seed: config.seed,
        max_new_tokens: config.evaluation.max_new_tokens,
        eos: eos.to_vec(),
        beam_width: engine.beam_width(),
        max_depth: engine.max_depth(),
        capacity: engine.capacity(),
        prompts: sha256_hex(tokens.as_bytes()),
        prompt_count: prompts.len(),
        contenders,
    }
}

/// Plain decoding, constants, those with the whole beam, rules, published ones and packages, in
/// this order.
fn contenders(
    args: &CompareArgs,
    constants: &[StaticSetting],
    published: Vec<(String, Contender)>,
    packages: &[PolicyPackage],
) -> Vec<(Entrant, Contender)> {
    let entrant = |role: Role, decides_by: String, contender: Contender| {
        (Entrant { name: contender.name.clone(), role, decides_by }, contender)
    };
    let alone = |role: Role, contender: Contender| entrant(role, String::new(), contender);
    let shape = |StaticSetting { depth, size }: &StaticSetting| format!("depth {depth}, size {size}");
    let mut contenders = vec![alone(Role::Plain, Contender::autoregressive())];
    let of_constant = |setting| alone(Role::Constant, Contender::constant(shape(setting), *setting));
    contenders.extend(constants.iter().map(of_constant));
    contenders.extend(args.whole_beams.iter().map(|setting| {
        alone(Role::WholeBeam, Contender::whole_beam(format!("{}, whole beam", shape(setting)), *setting))
    }));
    let of_rule = |setting: &FixedSetting| alone(Role::Rule, Contender::fixed(setting.to_string(), *setting));
    contenders.extend(args.copy_rules.iter().map(of_rule));
    contenders.extend(
        published.into_iter().map(|(decides_by, contender)| entrant(Role::Published, decides_by, contender)),
    );
    for (folder, package) in args.policies.iter().zip(packages) {
        let manifest = serde_json::to_vec(&package.manifest).expect("invariant: a manifest is plain data");
        let (role, learned) = if args.ignore_fallback {
            (Role::Policy, Learned::of_policy(&package.policy))
        } else {
            let falls_back = package.manifest.fallback.is_some();
            (if falls_back { Role::Fallback } else { Role::Policy }, Learned::of_package(package))
        };
        let contender = Contender::new(folder.display().to_string(), Box::new(learned));
        contenders.push(entrant(role, sha256_hex(&manifest), contender));
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

/// What is to be known of packages, in words.
fn notes(args: &CompareArgs, packages: &[PolicyPackage]) -> Vec<String> {
    let note = |(folder, package): (&PathBuf, &PolicyPackage)| {
        let folder = folder.display();
        match (&package.manifest.fallback, &package.policy) {
            (Some(fallback), _) if !args.ignore_fallback => {
                Some(format!("{folder} falls back to {fallback}: {}.", fallback.reason))
            }
            (_, Policy::Factored(factored)) => {
                let measured = &factored.latency.identity;
                Some(format!(
                    "{folder} decides by times measured on {} ({}, {}, {} threads).",
                    measured.machine, measured.device, measured.dtype, measured.threads
                ))
            }
            _ => None,
        }
    };
    args.policies.iter().zip(packages).filter_map(note).collect()
}
