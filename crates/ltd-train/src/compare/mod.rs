//! `ltd-train compare`: packages, constants and published rules side by side on live cycles.

mod args;
mod header;
mod measure;
mod plan;
mod published;
mod reading;
mod report;
mod results;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ltd_console::{note, print_result, say};
use ltd_distributed::Group;
use ltd_engine::text::TextModel;
use ltd_engine::{DtypeSetting, Engine, Learned, Sampler, SamplingParams, Static, StopRule};
use ltd_policy::{Models, Policy, PolicyPackage, check_output_file, sha256_hex, write_json};

use crate::evaluate::{Arena, Contender, FixedSetting, StaticEntrant};
use crate::trainer::check_devices;
use crate::{Error, Result};
use ltd_run::config::{Minutes, PromptSet, StaticSetting};
use ltd_run::interrupt::listen;
use ltd_run::local_rank::{local_rank, on_own_device};
use ltd_run::machine::{Machine, device_model};
use ltd_run::prompts::{Prompts, questions, shared};
use ltd_run::{Interrupt, Progress, TrainConfig};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) use report::{ReportArgs, report};

pub(crate) use args::CompareArgs;
use args::share;
use header::{Compared, Entrant, Header, Program, Role, TaskEntry};
use measure::Questions;
use plan::{Task, check_names};
use published::Published;
use reading::read_header;
use report::{Report, describe};
use results::{Results, WENT_ON};

/// Prints the published rules.
pub(crate) fn list_contenders() -> Result<()> {
    Ok(say!("{}", published::table())?)
}

/// Lets plain decoding, constants and packages decode the same prompts in turns, and prints how
/// fast each was.
pub(crate) fn compare(args: &CompareArgs) -> Result<()> {
    let mut args = args.clone();
    let shard = share(&mut args)?;
    let args = &args;
    check_files(args, &[])?;
    let mut config = TrainConfig::load(&args.config, &args.overrides)?;
    let prompts = [&config.prompts.train, &config.prompts.validation, &config.prompts.evaluation];
    check_files(args, &prompts)?;
    let begun = args.results.as_ref().map(|path| read_header(path)).transpose()?.flatten();
    let trees = args.contender_trees.map(|StaticSetting { depth, size }| Static { depth, size });
    let mut published =
        Published::find(&args.contenders, args.latency.as_deref(), args.classifiers.as_deref(), trees)?;
    if shard.is_some() {
        published.leave_out_measuring(&args.contenders)?;
    }
    let packages = read_packages(&args.policies)?;
    if let Some((first, others)) = packages.split_first()
        && others.iter().all(|other| other.manifest.dtype == first.manifest.dtype)
    {
        let dtype = config.engine.dtype.or_of_package(&first.manifest.dtype);
        config.engine.dtype =
            dtype.map_err(|problem| Error::Recorded(format!("{}: {problem}", args.policies[0].display())))?;
    }
    let own_card = match shard {
        Some(_) => on_a_part(args, &mut config)?,
        None => None,
    };
    let text = TextModel::of(&config.engine)?;
    let engine = Engine::open(&config.engine, &text)?;
    for warning in engine.warnings() {
        note!("ltd-train: warning: {warning}");
    }
    let models = config.engine.models()?;
    let samplings = samplings(args, &config)?;
    check_packages(args, &packages, &engine, &models, &samplings)?;
    if !args.any_models {
        published.check(&models)?;
    }
    check_costs(args, &published, &engine, &models, samplings[0])?;
    let (tasks, left_out) = tasks(args, &config, &text, &engine)?;

    let constants =
        if args.constants.is_empty() { &[config.evaluation.default][..] } else { &args.constants };
    check_depths(args, constants, engine.max_depth())?;
    let published = published.contenders(&engine, &tasks[0].conversations[0].first, begun.as_ref())?;
    let (entrants, contenders): (Vec<Entrant>, Vec<Contender>) =
        contenders(args, constants, published, &packages).into_iter().unzip();
    let mut names = BTreeSet::new();
    if let Some(twice) = entrants.iter().find(|entrant| !names.insert(entrant.name.as_str())) {
        return Err(Error::Recorded(format!("{} takes part twice", twice.name)));
    }
    let (interrupt, progress) = (Interrupt::default(), Progress::detect());
    listen(&interrupt)?;
    let group = Group::alone();
    let arena = Arena {
        engine: &engine,
        stop: StopRule { max_new_tokens: config.evaluation.max_new_tokens, eos: text.eos().to_vec() },
        sampler: Sampler::new(config.sampling, config.seed)?,
        costs: None,
        interrupt: &interrupt,
        progress,
        group: &group,
    };
    let questions = Questions {
        tasks: &tasks,
        samplings: &samplings,
        repetitions: args.repetitions,
        seed: config.seed,
        text: &text,
    };
    let begun_at = OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    let header = Header {
        compared: Compared { shard, ..what_is_compared(&config, &engine, &models, &questions, entrants) }
            .on_any_card(own_card.as_deref()),
        program: Program::this(),
        begun: begun_at.and_then(|now| now.format(&Rfc3339).ok()),
        models: vec![models.target.name.clone(), models.draft.name.clone()],
        cpu: Machine::read().cpu,
        command: std::env::args().collect(),
        notes: left_out.into_iter().chain(notes(args, &packages)).collect(),
    };
    let own = header.compared.own_cases();
    let cases = own.clone().count();
    let (mut results, header) = open_results(args, header, progress)?;
    let limit = args.max_minutes.map(Minutes::duration);
    let measured = questions.measure(&arena, contenders, own, limit, &mut results);
    if let (Err(error), Some(path)) = (&measured, &args.results)
        && error.is_interrupt()
    {
        let kept = results.questions();
        note!("ltd-train: {kept} of {cases} questions are in {}; the same command goes on", path.display());
    }
    measured?;
    if let Some(warning) = engine.late_warning() {
        note!("ltd-train: warning: {warning}");
    }
    if cases == 0 {
        note!("ltd-train: no question is left for this part");
        return Ok(());
    }
    tell(args, header, &results)
}

/// Readies the configuration for a part of the questions: on the card of this process, which is
/// returned, if each has its own.
fn on_a_part(args: &CompareArgs, config: &mut TrainConfig) -> Result<Option<String>> {
    if config.engine.dtype == DtypeSetting::Auto && config.engine.device == "cpu" {
        let problem = "engine.dtype: is auto, which each part would measure for itself: name it with --shard";
        return Err(Error::Recorded(problem.to_owned()));
    }
    let local_rank = local_rank()?;
    if !args.share_device {
        check_devices(&config.engine, local_rank)?;
    }
    let own = on_own_device(config.engine.clone(), local_rank);
    let card = (own.device != config.engine.device).then(|| own.device.clone());
    config.engine = own;
    Ok(card)
}

/// Prints the report of what was measured, and writes it where it is asked for.
fn tell(args: &CompareArgs, header: Header, results: &Results) -> Result<()> {
    let report = Report::of(header, &results.turns);
    // Whichever of both fails, the other one has what was measured.
    let printed = print_result(format_args!("{}", describe(&report)));
    if let Some(out) = &args.places.out {
        report.write(&results.turns, &[], out)?;
        note!("ltd-train: the whole report: {}", out.join("report.html").display());
    }
    if let Some(path) = &args.places.json {
        write_json(path, &report)?;
    }
    Ok(printed?)
}

/// The packages in some folders, each once.
fn read_packages(folders: &[PathBuf]) -> Result<Vec<PolicyPackage>> {
    let mut places = BTreeSet::new();
    let packages = folders.iter().map(|folder| {
        let package = PolicyPackage::load(folder)?;
        if folder.canonicalize().is_ok_and(|place| !places.insert(place)) {
            return Err(Error::Recorded(format!("--policy: {} takes part twice", folder.display())));
        }
        Ok(package)
    });
    packages.collect()
}

/// Fails unless results and reports can be written where nothing else is read, `prompts` included,
/// or written.
fn check_files(args: &CompareArgs, prompts: &[&PromptSet]) -> Result<()> {
    let read = prompts.iter().map(|set| &set.file).chain([&args.config]).chain(&args.questions);
    let read = read.chain(&args.latency).chain(&args.classifiers).map(PathBuf::as_path);
    let mut others: Vec<&Path> = read.collect();
    if let Some(results) = &args.results {
        check_output_file("--results", results, others.iter().copied())?;
        others.push(results);
    }
    args.places.check(&others)
}

/// Fails unless all packages steer this engine. What else they were made for is told.
fn check_packages(
    args: &CompareArgs,
    packages: &[PolicyPackage],
    engine: &Engine,
    models: &Models,
    samplings: &[SamplingParams],
) -> Result<()> {
    let asked = (!args.any_models).then_some(models);
    for (folder, package) in args.policies.iter().zip(packages) {
        let (width, depth) = (engine.beam_width(), engine.max_depth());
        package.check_steers(folder, "the configuration", asked, width, depth)?;
        let warning = |sampling: &SamplingParams| package.warning(&engine.conditions(*sampling));
        if let Some(warning) = samplings.iter().find_map(warning) {
            note!("ltd-train: warning: {}: {warning}", folder.display());
        }
    }
    Ok(())
}

/// Fails unless the table of costs is of these models. What else it was measured with is told.
fn check_costs(
    args: &CompareArgs,
    published: &Published,
    engine: &Engine,
    models: &Models,
    sampling: SamplingParams,
) -> Result<()> {
    let (Some(table), Some(path)) = (published.costs(), &args.latency) else { return Ok(()) };
    if !args.any_models {
        table.identity.models().check(path, "the configuration", models)?;
    }
    let differences = table.identity.conditions().differences(&engine.conditions(sampling));
    if !differences.is_empty() {
        note!("ltd-train: warning: --latency was measured with {}", differences.join(", "));
    }
    Ok(())
}

/// Fails if a setting is deeper than the engine drafts.
fn check_depths(args: &CompareArgs, constants: &[StaticSetting], drafted: usize) -> Result<()> {
    let depths = |settings: &[StaticSetting]| settings.iter().map(|setting| setting.depth).collect();
    let depths: [(&str, Vec<usize>); 4] = [
        ("--constant", depths(constants)),
        ("--whole-beam", depths(&args.whole_beams)),
        ("--copy-rule", args.copy_rules.iter().map(|setting| setting.depth).collect()),
        ("--contender-trees", args.contender_trees.iter().map(|setting| setting.depth).collect()),
    ];
    for (option, depths) in depths {
        if let Some(deepest) = depths.into_iter().find(|depth| *depth > drafted) {
            return Err(Error::Recorded(format!(
                "{option}: depth {deepest} is asked for, engine.max_depth allows {drafted}"
            )));
        }
    }
    Ok(())
}

/// The file of results, if there is to be one, and its header.
fn open_results(args: &CompareArgs, header: Header, progress: Progress) -> Result<(Results, Header)> {
    let Some(path) = &args.results else { return Ok((Results::passing(), header)) };
    let cases = header.compared.cases();
    let (results, header) = Results::open(path, header)?;
    if !results.turns.is_empty() {
        let kept = results.questions();
        progress.say(&format!("{kept} of {cases} questions are in {}", path.display()));
        for note in header.notes.iter().filter(|note| note.starts_with(WENT_ON)) {
            progress.say(&format!("warning: {note}"));
        }
    }
    Ok((results, header))
}

/// The ways to choose tokens: the configuration's, at the temperatures asked for.
fn samplings(args: &CompareArgs, config: &TrainConfig) -> Result<Vec<SamplingParams>> {
    if args.temperature.is_empty() {
        return Ok(vec![config.sampling]);
    }
    let mut samplings: Vec<SamplingParams> = Vec::new();
    for &temperature in &args.temperature {
        let sampling = SamplingParams { temperature, ..config.sampling };
        if let Some((_, problem)) = sampling.problems().into_iter().find(|(key, _)| *key == "temperature") {
            return Err(Error::Recorded(format!("--temperature: {problem}")));
        }
        if samplings.iter().any(|other| other.is_as(&sampling)) {
            return Err(Error::Recorded(format!("--temperature: {temperature} is there twice")));
        }
        samplings.push(sampling);
    }
    Ok(samplings)
}

/// What all cycles of a comparison have in common.
fn what_is_compared(
    config: &TrainConfig,
    engine: &Engine,
    models: &Models,
    questions: &Questions,
    contenders: Vec<Entrant>,
) -> Compared {
    let tasks = questions.tasks.iter().map(|task| TaskEntry {
        name: task.name.clone(),
        questions: task.conversations.len(),
        sha256: task.sha256(),
        file_sha256: task.file_sha256.clone(),
    });
    Compared {
        version: Compared::VERSION,
        target: models.target.sha256.clone(),
        draft: models.draft.sha256.clone(),
        device: engine.runs_on(),
        machine: device_model(&engine.device_names()),
        dtype: engine.dtype().chosen.to_string(),
        threads: tch::get_num_threads(),
        samplings: questions.samplings.to_vec(),
        repetitions: questions.repetitions,
        seed: questions.seed,
        max_new_tokens: config.evaluation.max_new_tokens,
        eos: questions.text.eos().to_vec(),
        beam_width: engine.beam_width(),
        max_depth: engine.max_depth(),
        capacity: engine.capacity(),
        tasks: tasks.collect(),
        contenders,
        shard: None,
    }
}

/// Plain decoding, constants, those with the whole beam, rules, published ones and packages, in
/// this order.
fn contenders(
    args: &CompareArgs,
    constants: &[StaticSetting],
    published: Vec<(Entrant, Contender)>,
    packages: &[PolicyPackage],
) -> Vec<(Entrant, Contender)> {
    let entrant = |role: Role, decides_by: String, contender: Contender| {
        (Entrant { name: contender.name.clone(), role, decides_by, setting: None }, contender)
    };
    let fixed = |role: Role, name: String, setting: FixedSetting| {
        let setting = StaticEntrant { setting, whole_beam: role == Role::WholeBeam };
        let (alone, contender) = entrant(role, String::new(), Contender::unchanging(name, setting));
        (Entrant { setting: Some(setting), ..alone }, contender)
    };
    let shape = |StaticSetting { depth, size }: &StaticSetting| format!("depth {depth}, size {size}");
    let mut contenders = vec![entrant(Role::Plain, String::new(), Contender::autoregressive())];
    let constant = |setting: &StaticSetting| fixed(Role::Constant, shape(setting), (*setting).into());
    contenders.extend(constants.iter().map(constant));
    contenders.extend(
        args.whole_beams.iter().map(|setting| {
            fixed(Role::WholeBeam, format!("{}, whole beam", shape(setting)), (*setting).into())
        }),
    );
    contenders.extend(args.copy_rules.iter().map(|rule| fixed(Role::Rule, rule.to_string(), *rule)));
    contenders.extend(published);
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

/// The questions to ask, and what is left out of them, in words. Those of the configuration are
/// apart from what it learns from; of others, it is said.
fn tasks(
    args: &CompareArgs,
    config: &TrainConfig,
    text: &TextModel,
    engine: &Engine,
) -> Result<(Vec<Task>, Vec<String>)> {
    let known = Prompts::read(&config.prompts, text)?;
    let of_options =
        args.questions.iter().map(|file| PromptSet { file: file.clone(), skip: args.skip, take: args.limit });
    let mut sets: Vec<PromptSet> = of_options.collect();
    if sets.is_empty() {
        sets.push(config.prompts.evaluation.clone());
    }
    let (mut tasks, mut left_out) = (Vec::new(), Vec::new());
    for set in &sets {
        let (task, note) = Task::read(set, text, engine, config.evaluation.max_new_tokens)?;
        tasks.push(task);
        left_out.extend(note);
    }
    check_names(&tasks)?;
    for note in &left_out {
        note!("ltd-train: warning: {note}");
    }
    let asked = if args.questions.is_empty() { &[][..] } else { &tasks };
    for Task { file, conversations, .. } in asked {
        for (name, others) in [("train", &known.train), ("validation", &known.validation)] {
            let asked = conversations.iter().map(|asked| (&asked.first[..], asked.id.clone()));
            if let Some(shared) = shared(asked, questions(others)) {
                note!(
                    "ltd-train: warning: {} has {shared} of prompts.{name}: results on prompts that were learned from are too good",
                    file.display()
                );
            }
        }
    }
    Ok((tasks, left_out))
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
