//! What the command does.

use anyhow::{Context, Result};
use ltd_engine::text::{Prompt, Question, TextModel, load_questions};
use ltd_engine::{Controller, CycleOutcome, CycleTiming, Engine, Learned, Session, Static, StopRule};
use ltd_policy::PolicyPackage;

use crate::cli::{Cli, Mode, PromptArgs};
use crate::dump::TreeDump;
use crate::report::{Report, Totals};

/// The command line or a file it names cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct UsageError(#[from] anyhow::Error);

/// Runs the command.
pub(crate) fn run(cli: &Cli) -> Result<()> {
    // Everything that can be wrong with the input is looked at before a model runs.
    let config = cli.engine_config();
    let problems = config.problems();
    if let Some((field, problem)) = problems.first() {
        return Err(UsageError(anyhow::anyhow!("--{}: {problem}", field.replace('_', "-"))).into());
    }
    let text = TextModel::load(&config.target).map_err(|error| UsageError(error.into()))?;
    let prompts = prompts(&cli.prompt, cli.limit, &text).map_err(UsageError)?;
    let mut controller = controller(cli).map_err(UsageError)?;
    let engine = Engine::load(&config).map_err(|error| UsageError(error.into()))?;
    eprintln!("ltd-decode: {}, dtype {}", cli.device(), engine.dtype());

    let stop = StopRule { max_new_tokens: cli.max_new_tokens, eos: text.eos().to_vec() };
    let report = Report::new(cli.json, prompts.len());
    let mut totals = Totals::default();
    let mut recycled = None;
    for (index, prompt) in prompts.iter().enumerate() {
        let context = || format!("prompt {}", prompt.id);
        let mut session = engine.prefill(&prompt.ids, recycled.take()).with_context(context)?;
        let mut dump = cli.dump_trees.as_ref().map(|path| (path, TreeDump::default()));
        let mut answer = Totals::default();
        while stop.reached(&session, prompt.ids.len()).is_none() {
            let outcome = match &mut controller {
                None => autoregressive_cycle(&engine, &mut session)?,
                Some(controller) => {
                    let dump = dump.as_mut().map(|(_, dump)| dump);
                    speculative_cycle(&engine, &mut session, controller.as_mut(), prompt, dump)?
                }
            };
            report.cycle(index, &outcome)?;
            answer.add(&outcome);
        }
        let output = stop.output(&session, prompt.ids.len());
        report.answer(index, prompt, &text.decode(&output)?, &output, &answer)?;
        totals.append(&answer, &output);
        if let Some((path, dump)) = dump {
            dump.write(path, &session, &prompt.ids, &settings(cli, &engine))?;
        }
        recycled = Some(session);
    }
    report.total(&totals)
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
        return parsed.map(single).with_context(|| format!("--token-ids: expected numbers, found `{ids}`"));
    }
    let message = args.text.as_deref().unwrap_or_default();
    let ids = text.encode_chat(message)?.context(
        "the target folder has no tokenizer.json, so text cannot be read: pass --token-ids instead",
    )?;
    Ok(single(ids))
}

/// Who steers; nobody in plain decoding.
fn controller(cli: &Cli) -> Result<Option<Box<dyn Controller>>> {
    Ok(match cli.mode {
        Mode::Ar if cli.dump_trees.is_some() => anyhow::bail!("--dump-trees: plain decoding has no trees"),
        Mode::Ar => None,
        Mode::Static => {
            let (depth, size) = (cli.depth.unwrap_or_default(), cli.size.unwrap_or_default());
            if depth > ltd_engine::MAX_DEPTH {
                anyhow::bail!("--depth: is {depth}, must be at most {}", ltd_engine::MAX_DEPTH);
            }
            Some(Box::new(Static { depth, size }))
        }
        Mode::Policy => {
            let folder = cli.policy.as_deref().context("--policy: expected a folder")?;
            let package = PolicyPackage::load(folder)?;
            let (found, expected) = (cli.engine_config().beam_width, package.manifest.beam_width);
            if found != expected {
                anyhow::bail!(
                    "--beam-width: is {found}, but {} was trained with {expected}",
                    folder.display()
                );
            }
            let learned = Learned::new(&package.depth, &package.size);
            Some(Box::new(learned.context("the package's policies are for other decisions")?))
        }
    })
}

fn speculative_cycle(
    engine: &Engine,
    session: &mut Session,
    controller: &mut dyn Controller,
    prompt: &Prompt,
    dump: Option<&mut TreeDump>,
) -> Result<CycleOutcome> {
    let Some(dump) = dump else { return Ok(engine.run_cycle(session, controller)?) };
    let first = session.context_length() == prompt.ids.len();
    // Before the first cycle the draft has read all but the prompt's last position.
    let features =
        if first { Some(engine.target_features(&prompt.ids)?) } else { session.pending_features() };
    if let Some((features, width)) = features {
        dump.features(&features, width);
    }
    let (outcome, tree) = engine.run_cycle_tree(session, controller)?;
    dump.cycle(&outcome, &tree);
    Ok(outcome)
}

/// A plain step in the form of a cycle that drafts and verifies nothing.
fn autoregressive_cycle(engine: &Engine, session: &mut Session) -> Result<CycleOutcome> {
    let context_length = session.context_length();
    let (token, elapsed) = engine.autoregressive_step(session)?;
    Ok(CycleOutcome {
        accepted_ids: vec![token],
        next_token: session.root(),
        draft_depth: 0,
        verification_size: 0,
        context_length,
        timing: CycleTiming { verify: elapsed, ..CycleTiming::default() },
    })
}

fn settings(cli: &Cli, engine: &Engine) -> Vec<(&'static str, String)> {
    let mut settings =
        vec![("beam_width", engine.beam_width().to_string()), ("dtype", engine.dtype().chosen.to_string())];
    if let (Some(depth), Some(size)) = (cli.depth, cli.size) {
        settings.extend([("draft_depth", depth.to_string()), ("verification_size", size.to_string())]);
    }
    settings
}
