//! `ltd-trace merge`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{count, note, say};
use ltd_env::trace::{Outline, RecordingPlan, Shard, ShardPlan, Trace, TraceWriter};
use ltd_policy::check_output_folder;

use crate::{Error, Result};

/// Continuations that a message names; the rest is counted.
const MOST_NAMED: usize = 3;
/// Shards that a message names.
const MOST_SHARDS: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Traces to take sequences from, such as the shards of a recording
    #[arg(required = true, value_name = "DIR")]
    pub(crate) traces: Vec<PathBuf>,
    /// Folder of the trace to make or to add to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Merge even if continuations are missing that the shards were to hold
    #[arg(long)]
    pub(crate) allow_gaps: bool,
}

/// Prompt and seed.
type Key = (u32, u64);

/// A trace to take sequences from.
struct Input {
    folder: PathBuf,
    trace: Trace,
    /// If it is a shard.
    plan: Option<ShardPlan>,
    /// What a trace before it holds too.
    again: Vec<Key>,
    taken: usize,
}

impl Input {
    /// That of a folder; nothing of a shard's that was killed before it recorded anything.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let named = shard_of_name(folder).is_some();
        if named && folder.is_dir() && !folder.join("trace.json").exists() {
            return Ok(None);
        }
        check_not_above(folder)?;
        // Each tree is read once: none has to stay in memory.
        let (trace, plan) = (Trace::read_within(folder, 0)?, ShardPlan::read(folder)?);
        if named && plan.is_none() && trace.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { folder: folder.to_owned(), trace, plan, again: Vec::new(), taken: 0 }))
    }

    /// Where the trace is to be of the same models, prompts and settings as another.
    fn check_against(&self, other: &Self) -> Result<()> {
        match self.trace.header.differences(&other.trace.header).into_iter().next() {
            Some((field, here, there)) => {
                let other = other.folder.display();
                Err(self.wrong(format!("is a trace whose {field} is {here}, that of {other} is {there}")))
            }
            None => Ok(()),
        }
    }

    fn wrong(&self, problem: String) -> Error {
        ltd_env::Error::Trace { path: self.folder.clone(), problem }.into()
    }
}

/// The shard for which a folder is named.
fn shard_of_name(folder: &Path) -> Option<Shard> {
    Shard::of_folder_name(folder.file_name()?.to_str()?)
}

/// Refuses the folder in which the folders of traces are.
fn check_not_above(folder: &Path) -> Result<()> {
    let is_trace = |folder: &Path| folder.join("trace.json").exists();
    let inside = || std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    if is_trace(folder) || !inside().any(|folder| is_trace(&folder)) {
        return Ok(());
    }
    let problem = format!("is no trace, but has traces in it: give these, {}/*", folder.display());
    Err(ltd_env::Error::Trace { path: folder.to_owned(), problem }.into())
}

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let place = |folder: &Path| folder.canonicalize().ok();
    if let Some(input) =
        args.traces.iter().find(|input| place(input).is_some() && place(input) == place(&args.out))
    {
        let problem = "is read and cannot be --out, too: choose another folder".to_owned();
        return Err(ltd_env::Error::Trace { path: input.clone(), problem }.into());
    }
    // What is there already counts as one more trace, from which nothing has to be taken.
    let there = args.out.join("trace.json").exists().then_some(&args.out);
    let folders = there.into_iter().chain(&args.traces);
    let (mut inputs, mut not_begun) = (Vec::new(), Vec::new());
    for folder in folders {
        match Input::read(folder)? {
            Some(input) => inputs.push(input),
            None => not_begun.push(folder.as_path()),
        }
    }
    if let (true, Some(first)) = (inputs.is_empty(), not_begun.first()) {
        let problem = "holds nothing yet: its recording was ended as it began".to_owned();
        return Err(ltd_env::Error::Trace { path: (*first).to_owned(), problem }.into());
    }
    inputs[1..].iter().try_for_each(|input| input.check_against(&inputs[0]))?;

    let places = places(&mut inputs)?;
    if let Some(gaps) = gaps(&inputs, &not_begun, &places) {
        if !args.allow_gaps {
            return Err(Error::Missing(gaps));
        }
        note!("ltd-trace: warning: {gaps}");
    }
    let mut writer = TraceWriter::open(&args.out, inputs[0].trace.header.clone())?;
    for key in in_order(&inputs) {
        let (input, number) = places[&key];
        if !writer.recorded().contains(&key) {
            let sequence = inputs[input].trace.sequence(number)?;
            writer.append(&sequence)?;
            inputs[input].taken += 1;
        }
    }
    // What cannot be told is merged nevertheless.
    let mut told = Ok(());
    for Input { folder, trace, again, taken, .. } in &inputs[usize::from(there.is_some())..] {
        let (all, noun, sampled) = (trace.len(), trace.header.noun(), trace.header.is_sampled());
        let known = match again.len() {
            0 => String::new(),
            _ => format!("; {} there already: {}", again.len(), named(again, sampled)),
        };
        told = told.and(say!("{}: {taken} of {all} {noun}s taken over{known}", folder.display()));
    }
    Ok(told?)
}

/// In which trace each continuation is, and where: in the first that holds it.
///
/// # Errors
/// If another holds another continuation of the same prompt and seed.
fn places(inputs: &mut [Input]) -> Result<BTreeMap<Key, (usize, usize)>> {
    let mut places = BTreeMap::new();
    for input in 0..inputs.len() {
        let mut again = Vec::new();
        let this = &inputs[input];
        for (number, outline) in this.trace.outlines().enumerate() {
            let key = outline.key();
            match places.entry(key) {
                Entry::Vacant(entry) => _ = entry.insert((input, number)),
                Entry::Occupied(entry) => {
                    let &(other, there): &(usize, usize) = entry.get();
                    if inputs[other].trace.sequence(there)? != this.trace.sequence(number)? {
                        let (what, other) =
                            (named(&[key], this.trace.header.is_sampled()), &inputs[other].folder);
                        let problem = format!("{what} is another recording than in {}", other.display());
                        return Err(this.wrong(problem));
                    }
                    again.push(key);
                }
            }
        }
        inputs[input].again = again;
    }
    Ok(places)
}

/// All continuations: first those of plans, in the order of a recording that no shards divide,
/// then the others as they come.
fn in_order(inputs: &[Input]) -> Vec<Key> {
    let mut rest: BTreeSet<Key> = keys(inputs).collect();
    let plans: BTreeSet<_> = inputs.iter().filter_map(|input| Some(&input.plan.as_ref()?.plan)).collect();
    let planned = plans.into_iter().flat_map(RecordingPlan::continuations);
    planned.chain(keys(inputs)).filter(|key| rest.remove(key)).collect()
}

fn keys(inputs: &[Input]) -> impl Iterator<Item = Key> {
    inputs.iter().flat_map(|input| input.trace.outlines().map(Outline::key))
}

/// In words, what the plans of the shards have and none of the traces.
fn gaps(inputs: &[Input], not_begun: &[&Path], places: &BTreeMap<Key, (usize, usize)>) -> Option<String> {
    let header = &inputs.first()?.trace.header;
    let (mut missing, mut lines) = (0, Vec::new());
    // Shards that divide the same recording.
    let mut groups: BTreeMap<(&RecordingPlan, usize), BTreeMap<usize, &Path>> = BTreeMap::new();
    for input in inputs {
        if let Some(ShardPlan { shard, plan }) = &input.plan {
            groups.entry((plan, shard.count)).or_default().entry(shard.index).or_insert(&input.folder);
        }
    }
    for ((plan, count), mut folders) in groups {
        for folder in not_begun {
            if let Some(shard) = shard_of_name(folder).filter(|shard| shard.count == count) {
                folders.entry(shard.index).or_insert(folder);
            }
        }
        // Of each shard how many, and the first of them.
        let mut lacking: BTreeMap<usize, (usize, Vec<Key>)> = BTreeMap::new();
        let gaps = plan.continuations().enumerate().filter(|(_, key)| !places.contains_key(key));
        for (number, key) in gaps {
            let (lost, first) = lacking.entry(number % count).or_default();
            *lost += 1;
            if first.len() <= MOST_NAMED {
                first.push(key);
            }
        }
        for (index, (lost, first)) in lacking {
            let shard = Shard { index, count };
            let who = match folders.get(&index) {
                Some(folder) => format!("{}: lacks", folder.display()),
                None => format!("{shard} was not given: that leaves out"),
            };
            let all = plan.share_len(shard);
            lines.push(format!("  {who} {lost} of {all}: {}", named(&first, header.is_sampled())));
            missing += lost;
        }
    }
    let more = lines.len().saturating_sub(MOST_SHARDS);
    lines.truncate(MOST_SHARDS);
    if more > 0 {
        lines.push(format!("  and {more} more of the shards"));
    }
    let what = count(missing, header.noun());
    (missing > 0).then(|| format!("missing of what the shards were to hold: {what}\n{}", lines.join("\n")))
}

/// In words, the first few of some continuations.
fn named(keys: &[Key], sampled: bool) -> String {
    let name = |&(prompt, seed): &Key| {
        if sampled { format!("{prompt} with seed {seed}") } else { prompt.to_string() }
    };
    let mut names: Vec<String> = keys.iter().take(MOST_NAMED).map(name).collect();
    if keys.len() > MOST_NAMED {
        names.push("..".to_owned());
    }
    format!("prompt{} {}", if keys.len() == 1 { "" } else { "s" }, names.join(", "))
}
