//! Arguments of `ltd-train compare`.

use std::path::PathBuf;

use clap::Args;
use ltd_console::note;
use ltd_env::trace::Shard;
use ltd_policy::{CopyRule, MAX_SIZE};
use ltd_run::config::{Minutes, StaticSetting};
use ltd_run::recording::ShardChoice;

use super::header::Share;
use super::report::Places;
use crate::arguments::count;
use crate::evaluate::FixedSetting;
use crate::{Error, Result};

#[derive(Debug, Clone, Args)]
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
    /// Published rules by name, separated by commas, or `all` (`ltd-train contenders` lists them)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) contenders: Vec<String>,
    /// What published rules keep constant of a tree [default: as published, depth 7 and size 59 or
    /// 60]
    #[arg(long, value_name = "DEPTH,SIZE", value_parser = constant, requires = "contenders")]
    pub(crate) contender_trees: Option<StaticSetting>,
    /// What rules with a classifier decide by (`ltd-train classify`); without it, `all` leaves them
    /// out
    #[arg(long, value_name = "FILE", requires = "contenders")]
    pub(crate) classifiers: Option<PathBuf>,
    /// Measured costs (`ltd-trace latency`), for those of them that weigh costs
    #[arg(long, value_name = "FILE", requires = "contenders")]
    pub(crate) latency: Option<PathBuf>,
    /// Compare packages, classifiers and costs of other models too, as an experiment
    #[arg(long)]
    pub(crate) any_models: bool,
    /// Let the policies of packages decide that fall back to a fixed setting
    #[arg(long)]
    pub(crate) ignore_fallback: bool,
    /// A task: questions in FastChat's question.jsonl form, of which all turns are asked; may be
    /// repeated [default: the configuration's prompts for the evaluation]
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Vec<PathBuf>,
    /// Questions of each file of `--questions` to pass over
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "questions",
        allow_negative_numbers = true
    )]
    pub(crate) skip: usize,
    /// Questions of each file of `--questions` to ask [default: all]
    #[arg(long, value_name = "N", requires = "questions", value_parser = count(), allow_negative_numbers = true)]
    pub(crate) limit: Option<usize>,
    /// Temperatures to ask every question at, separated by commas [default: the configuration's]
    #[arg(long, value_name = "T", value_delimiter = ',', value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Vec<f64>,
    /// How often to ask every question: above temperature 0 with other random numbers each time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(), allow_negative_numbers = true)]
    pub(crate) repetitions: usize,
    /// End after this time, at a question's end
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    pub(crate) max_minutes: Option<Minutes>,
    /// Keep every cycle in a file of JSON lines, turn by turn, and go on with what is there
    #[arg(long, value_name = "FILE")]
    pub(crate) results: Option<PathBuf>,
    /// Ask a part of the questions: number I, from 0, of N. `auto`: as the launcher says, as in
    /// `ltd-trace record`. `none`: all. Parts keep their results in FILE-I-of-N, and `report` puts
    /// them together [default: `auto` where a launcher started several processes, with a note; else
    /// `none`]
    #[arg(long, value_name = "I/N|auto|none")]
    pub(crate) shard: Option<ShardChoice>,
    /// Let several processes of this machine time their cycles on one device, where they disturb
    /// each other
    #[arg(long)]
    pub(crate) share_device: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

fn constant(text: &str) -> Result<StaticSetting, String> {
    let parts = text.split_once(',').and_then(|(depth, size)| {
        Some(StaticSetting { depth: depth.trim().parse().ok()?, size: size.trim().parse().ok()? })
    });
    match parts {
        Some(setting) if (1..=MAX_SIZE).contains(&setting.size) => Ok(setting),
        Some(StaticSetting { size, .. }) => Err(format!("SIZE is {size}, expected 1..={MAX_SIZE}")),
        None => Err("expected a depth and a size, such as 3,24".to_owned()),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    text.trim().parse().map_err(|_| "expected numbers separated by commas, such as 0,1".to_owned())
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

/// The part of the questions that this process asks, if they are shared out; then its results go to
/// a file of their own.
pub(super) fn share(args: &mut CompareArgs) -> Result<Option<Share>> {
    let shard = ShardChoice::shard(args.shard, |shard, variables| {
        note!("ltd-train: asks {shard} only, as {variables} say: --shard none asks all questions");
    })?;
    let Some(Shard { index, count }) = shard.filter(|shard| shard.count > 1) else { return Ok(None) };
    let Some(results) = &mut args.results else {
        let problem = "--shard: needs --results FILE: `ltd-train report` puts the parts together".to_owned();
        return Err(Error::Recorded(problem));
    };
    if args.places.out.is_some() || args.places.json.is_some() {
        let problem =
            "--shard: a part has no report of its own: `ltd-train report FILE-*` writes that of all";
        return Err(Error::Recorded(problem.to_owned()));
    }
    let name = results.file_stem().unwrap_or_default().to_string_lossy();
    let end = results.extension().map_or_else(String::new, |end| format!(".{}", end.to_string_lossy()));
    *results = results.with_file_name(format!("{name}-{index}-of-{count}{end}"));
    Ok(Some(Share { index, of: count }))
}
