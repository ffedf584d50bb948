//! What the command does.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ltd_console::note;
use ltd_engine::text::{Prompt, Question, TextModel, load_questions};
use ltd_engine::{
    Controller, CopiesAlone, Copying, CycleOutcome, Engine, EngineConfig, Learned, MAX_DEPTH, Sampler,
    Session, Static, StopRule, WholeBeam,
};
use ltd_policy::{Calibration, CopyRule, Policy, PolicyPackage, check_output_file};

use crate::cli::{Cli, Mode, PromptArgs, Source};
use crate::dump::TreeDump;
use crate::report::{Report, Totals};

/// The command line or a file it names cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct UsageError(#[from] anyhow::Error);

/// What goes wrong before the first token is the user's doing, unless the engine knows better: a
/// device may be full.
fn blame(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<ltd_engine::Error>() {
        Some(of_engine) if !of_engine.is_usage() => error,
        _ => UsageError(error).into(),
    }
}

/// All that a run needs, checked.
struct Job {
    engine: Engine,
    text: TextModel,
    prompts: Vec<Prompt>,
    sampler: Sampler,
    /// Where the policy comes from, if one steers.
    package: Option<PolicyPackage>,
    /// Who steers; nobody in plain decoding.
    controller: Option<Box<dyn Controller>>,
}

/// Runs the command.
pub(crate) fn run(cli: &Cli) -> Result<()> {
    let mut job = prepare(cli).map_err(blame)?;
    let (devices, dtype) = (devices(&job.engine), job.engine.dtype());
    let exact = if job.engine.is_batch_invariant() { " (batch invariant)" } else { "" };
    let ends = job.text.stop_tokens().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    note!("ltd-decode: {devices}, dtype {dtype}{exact}, {}, ends at {ends}", job.sampler.params());
    for warning in job.engine.warnings() {
        note!("ltd-decode: warning: {warning}");
    }
    let here = job.engine.conditions(*job.sampler.params());
    if let Some(warning) = job.package.as_ref().and_then(|package| package.warning(&here)) {
        note!("ltd-decode: warning: {warning}");
    }

    let stop = StopRule { max_new_tokens: cli.max_new_tokens, eos: job.text.eos().to_vec() };
    let mut report = Report::new(cli.json, job.prompts.len());
    let mut totals = Totals::default();
    let mut recycled = None;
    for (index, prompt) in job.prompts.iter().enumerate() {
        let sampler = job.sampler.for_sequence(index as u64);
        let mut answering = job.engine.generate(&prompt.ids, sampler, stop.clone(), recycled.take())?;
        let mut dump = cli.dump_trees.as_ref().map(|path| (path, TreeDump::default()));
        let mut answer = Totals::default();
        while answering.ended().is_none() {
            let outcome = match (&mut job.controller, &mut dump) {
                (Some(controller), Some((_, dump))) => {
                    let session = answering.session_mut();
                    Some(dumped_cycle(&job.engine, session, controller.as_mut(), prompt, dump)?)
                }
                (controller, _) => answering.advance(&job.engine, controller.as_deref_mut())?,
            };
            let Some(outcome) = outcome else { break };
            report.cycle(index, &outcome)?;
            answer.add(&outcome);
            // Whoever reads has seen enough, unless trees are wanted too.
            if report.reader_has_gone() && dump.is_none() {
                return Ok(());
            }
        }
        let output = answering.output();
        report.answer(index, prompt, &job.text.decode(&output)?, &output, &answer)?;
        totals.append(&answer, &output);
        if let Some((path, dump)) = dump {
            dump.write(path, answering.session(), &prompt.ids, &settings(cli, &job.engine))?;
        }
        recycled = Some(answering.into_session());
    }
    if let Some(warning) = job.engine.late_warning() {
        note!("ltd-decode: warning: {warning}");
    }
    report.total(&totals, &job.engine, job.sampler.params(), cli.sampling.seed)
}

/// Everything that can be wrong with the input is looked at before a token is produced.
fn prepare(cli: &Cli) -> Result<Job> {
    let folders =
        [("target", Some(&cli.target)), ("draft", Some(&cli.draft)), ("policy", cli.policy.as_ref())];
    for (flag, folder) in folders {
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("--{flag}: folder {} does not exist", folder.display());
        }
    }
    if let Some(file) = cli.prompt.questions.as_ref().filter(|file| !file.exists()) {
        bail!("--questions: file {} does not exist", file.display());
    }
    if let Some(path) = &cli.dump_trees {
        check_output_file("--dump-trees", path, cli.prompt.questions.as_deref())?;
    }
    let package = cli.policy.as_deref().filter(|_| cli.mode == Mode::Policy).map(load_package).transpose()?;
    let manifest = package.as_ref().map(|package| &package.manifest);
    let config = cli.engine_config(manifest).map_err(|problem| anyhow!("--policy: {problem}"))?;
    let params = cli.sampling.params();
    if let Some((field, problem)) = config.problems().iter().chain(&params.problems()).next() {
        let flag = if *field == "devices" { "device" } else { field };
        bail!("--{}: {problem}", flag.replace('_', "-"));
    }
    let sampler = Sampler::new(params, cli.sampling.seed)?;
    let controller = controller(cli, package.as_ref(), &config)?;
    if let (Some(package), Some(folder)) = (&package, &cli.policy) {
        let models = (!cli.any_models).then(|| config.models()).transpose()?;
        package.check_steers(folder, "this command", models.as_ref(), config.beam_width, config.max_depth)?;
    }
    let text = TextModel::of(&config)?;
    let prompts = prompts(&cli.prompt, cli.limit, &text)?;
    let engine = Engine::open(&config, &text)?;
    for prompt in &prompts {
        engine.check_prompt(&prompt.ids).map_err(|error| anyhow!("prompt {}: {error}", prompt.id))?;
    }
    Ok(Job { engine, text, prompts, sampler, package, controller })
}

/// The device, or all of several with their shares.
fn devices(engine: &Engine) -> String {
    let mut devices: Vec<String> =
        engine.devices().map(|(name, layers)| format!("{name} ({layers} layers)")).collect();
    if let [_] = &devices[..] {
        devices = vec![engine.device_names()];
    }
    devices.join(", ")
}

fn load_package(folder: &Path) -> Result<PolicyPackage> {
    let package = PolicyPackage::load(folder)?;
    let manifest = &package.manifest;
    note!(
        "ltd-decode: policies of {} ({}), trained with {} and {} in {} on {}",
        manifest.run,
        manifest.stage,
        manifest.target.name,
        manifest.draft.name,
        manifest.dtype,
        manifest.device
    );
    if let Some(fallback) = &manifest.fallback {
        note!("ltd-decode: {fallback} decide instead of the policy: {}", fallback.reason);
    } else if let Policy::Factored(factored) = &package.policy {
        let measured = &factored.latency.identity;
        note!(
            "ltd-decode: decisions by times measured on {} ({}, {}, {} threads)",
            measured.machine,
            measured.device,
            measured.dtype,
            measured.threads
        );
    }
    Ok(package)
}

fn controller(
    cli: &Cli,
    package: Option<&PolicyPackage>,
    config: &EngineConfig,
) -> Result<Option<Box<dyn Controller>>> {
    if cli.whole_beam && cli.mode != Mode::Static {
        bail!("--whole-beam: only constant trees (--mode static) can expand all of the beam");
    }
    for (flag, given) in [
        ("source", cli.source.is_some()),
        ("copy-match", cli.copy_match.is_some()),
        ("copy-length", cli.copy_length.is_some()),
        ("depth", cli.depth.is_some()),
        ("size", cli.size.is_some()),
    ] {
        if given && cli.mode != Mode::Static {
            bail!("--{flag}: only for constant decoding (--mode static)");
        }
    }
    if cli.policy.is_some() && cli.mode != Mode::Policy {
        bail!("--policy: only for --mode policy");
    }
    Ok(match cli.mode {
        Mode::Ar if cli.dump_trees.is_some() => bail!("--dump-trees: plain decoding has no trees"),
        Mode::Ar => None,
        Mode::Static => Some(constant(cli)?),
        Mode::Policy => {
            let package = package.context("--policy: expected a folder")?;
            let (found, expected) = (config.beam_width, package.manifest.beam_width);
            if found != expected {
                bail!("--beam-width: is {found}, but the policies were trained with {expected}");
            }
            let learned = Learned::of_package(package);
            if cli.dump_trees.is_some() && learned.chooses_source() {
                bail!("--dump-trees: the policy copies, too, and copies have no trees");
            }
            Some(Box::new(learned))
        }
    })
}

/// Who decodes with settings that do not change.
fn constant(cli: &Cli) -> Result<Box<dyn Controller>> {
    let source = cli.source.unwrap_or_default();
    if cli.dump_trees.is_some() && source != Source::Eagle {
        bail!("--dump-trees: copies have no trees (--source eagle)");
    }
    let rule = cli.copy_rule();
    for (flag, given) in
        [("copy-match", cli.copy_match.is_some()), ("copy-length", cli.copy_length.is_some())]
    {
        if given && source == Source::Eagle {
            bail!("--{flag}: only where text is copied (--source copy, rule or merged)");
        }
    }
    if source == Source::Copy {
        for (flag, given) in
            [("depth", cli.depth.is_some()), ("size", cli.size.is_some()), ("whole-beam", cli.whole_beam)]
        {
            if given {
                bail!("--{flag}: only for trees (--source eagle, rule or merged)");
            }
        }
        return Ok(Box::new(CopiesAlone(rule)));
    }
    let (Some(depth), Some(size)) = (cli.depth, cli.size) else {
        let missing = if cli.depth.is_none() { "depth" } else { "size" };
        bail!("--{missing}: must be given for trees (--mode static, unless --source copy)");
    };
    if depth > MAX_DEPTH {
        bail!("--depth: is {depth}, must be at most {MAX_DEPTH}");
    }
    let fixed = Static { depth, size };
    Ok(match (source, cli.whole_beam) {
        (Source::Rule, false) => Box::new(Copying { rule, merged: None, trees: fixed }),
        (Source::Rule, true) => Box::new(Copying { rule, merged: None, trees: WholeBeam(fixed) }),
        (Source::Merged, false) => Box::new(merging(rule, fixed)),
        (Source::Merged, true) => Box::new(merging(rule, WholeBeam(fixed))),
        (_, false) => Box::new(fixed),
        (_, true) => Box::new(WholeBeam(fixed)),
    })
}

/// Nothing was recorded that would tell more of a candidate than its own model does.
fn merging<C>(rule: CopyRule, trees: C) -> Copying<C> {
    Copying { rule, merged: Some(Calibration::default()), trees }
}

fn prompts(args: &PromptArgs, limit: Option<usize>, text: &TextModel) -> Result<Vec<Prompt>> {
    let single = |ids: Vec<u32>| vec![Prompt { ids, id: "0".to_owned(), category: None }];
    if let Some(file) = &args.questions {
        let questions: Vec<Question> = load_questions(file, 0, None)?;
        let count = limit.unwrap_or(questions.len()).min(questions.len());
        return Ok(text.prompts(&questions[..count], file)?);
    }
    if let Some(ids) = &args.token_ids {
        let parsed: Result<Vec<u32>, _> = ids.split_whitespace().map(str::parse).collect();
        return match parsed {
            Ok(ids) => Ok(single(ids)),
            Err(error) => bail!("--token-ids: expected numbers, found `{ids}`: {error}"),
        };
    }
    let message = args.text.as_deref().unwrap_or_default();
    let ids = text.encode_chat(message)?.with_context(|| {
        format!("text cannot be read (pass --token-ids instead), as {}", text.missing_tokenizer())
    })?;
    Ok(single(ids))
}

fn dumped_cycle(
    engine: &Engine,
    session: &mut Session,
    controller: &mut dyn Controller,
    prompt: &Prompt,
    dump: &mut TreeDump,
) -> Result<CycleOutcome> {
    let first = session.context_length() == prompt.ids.len();
    // Before the first cycle the draft has read all but the prompt's last position.
    let features =
        if first { Some(engine.target_features(&prompt.ids)?) } else { session.pending_features()? };
    if let Some((features, width)) = features {
        dump.features(&features, width);
    }
    let (outcome, tree) = engine.run_cycle_tree(session, controller)?;
    dump.cycle(&outcome, &tree);
    Ok(outcome)
}

fn settings(cli: &Cli, engine: &Engine) -> Vec<(&'static str, String)> {
    let mut settings =
        vec![("beam_width", engine.beam_width().to_string()), ("dtype", engine.dtype().chosen.to_string())];
    let params = cli.sampling.params();
    if !params.is_greedy() {
        settings.extend([("sampling", params.to_string()), ("seed", cli.sampling.seed.to_string())]);
    }
    if let (Some(depth), Some(size)) = (cli.depth, cli.size) {
        settings.extend([("draft_depth", depth.to_string()), ("verification_size", size.to_string())]);
    }
    settings
}
