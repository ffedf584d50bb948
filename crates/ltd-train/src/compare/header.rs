//! What a comparison is of: what a file of results begins with.

use ltd_engine::SamplingParams;
use serde::{Deserialize, Serialize};

use super::plan::{Case, plan};
use crate::evaluate::StaticEntrant;
pub(crate) use crate::run::Program;

/// What a file of results begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    /// What was compared.
    pub(crate) compared: Compared,
    /// What measures.
    #[serde(flatten)]
    pub(crate) program: Program,
    /// Names of the target and the draft.
    #[serde(default)]
    pub(crate) models: Vec<String>,
    /// When it began, RFC 3339.
    #[serde(default)]
    pub(crate) begun: Option<String>,
    /// Name of the processor.
    pub(crate) cpu: Option<String>,
    /// Command line.
    pub(crate) command: Vec<String>,
    /// What is to be known of contenders, in words.
    pub(crate) notes: Vec<String>,
}

/// What all cycles of a file have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compared {
    /// Of the file's form.
    pub(crate) version: u32,
    /// Fingerprint of the target.
    pub(crate) target: String,
    /// Fingerprint of the draft.
    pub(crate) draft: String,
    /// Where the models are, and whether forwards are CUDA graphs.
    pub(crate) device: String,
    /// Name of the processor or card.
    pub(crate) machine: String,
    /// Number type of both models.
    pub(crate) dtype: String,
    /// Threads of the CPU kernels.
    pub(crate) threads: i32,
    /// How tokens are chosen: every question is asked once for each.
    pub(crate) samplings: Vec<SamplingParams>,
    /// How often.
    pub(crate) repetitions: usize,
    /// Seed of the numbers that tokens are drawn by, of the first repetition, and of the order.
    pub(crate) seed: u64,
    /// Longest answer.
    pub(crate) max_new_tokens: usize,
    /// Tokens that end one.
    pub(crate) eos: Vec<u32>,
    /// Candidates kept per level, `W`.
    pub(crate) beam_width: usize,
    /// Deepest draft.
    pub(crate) max_depth: usize,
    /// Positions of the caches.
    pub(crate) capacity: usize,
    /// What is decoded.
    pub(crate) tasks: Vec<TaskEntry>,
    /// Who takes part, plain decoding first.
    pub(crate) contenders: Vec<Entrant>,
    /// The part of the questions that is in the file, of several processes; null of one.
    #[serde(default)]
    pub(crate) shard: Option<Share>,
}

/// Every `of`-th question of the plan, from number `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    /// From 0.
    pub(crate) index: usize,
    /// How many parts there are.
    pub(crate) of: usize,
}

impl Compared {
    /// Version of the form.
    pub(crate) const VERSION: u32 = 2;

    /// The same wherever the models are, if `own` is the card of one of several processes: parts of
    /// a comparison are on different ones.
    pub(super) fn on_any_card(mut self, own: Option<&str>) -> Self {
        if let Some(graphs) = own.and_then(|own| self.device.strip_prefix(own)) {
            self.device = format!("cuda{graphs}");
        }
        self
    }

    /// Questions to ask, those of all tasks as often as they are asked.
    pub(crate) fn cases(&self) -> usize {
        let questions: usize = self.tasks.iter().map(|task| task.questions).sum();
        questions.saturating_mul(self.samplings.len()).saturating_mul(self.repetitions)
    }

    /// Numbers of those in the file, ascending.
    pub(crate) fn own_cases(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let Share { index, of } = self.shard.unwrap_or(Share { index: 0, of: 1 });
        (index..self.cases()).step_by(of)
    }

    /// The questions of all parts, in the order in which they are decoded.
    pub(crate) fn plan(&self) -> Vec<Case> {
        let questions: Vec<usize> = self.tasks.iter().map(|task| task.questions).collect();
        plan(&questions, self.samplings.len(), self.repetitions, self.seed)
    }
}

/// Questions of one kind, as a report knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskEntry {
    /// Its name.
    pub(crate) name: String,
    /// How many there are.
    pub(crate) questions: usize,
    /// SHA-256 of the questions.
    pub(crate) sha256: String,
    /// SHA-256 of the file that they are from.
    pub(crate) file_sha256: String,
}

/// A contender, as a report knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entrant {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) role: Role,
    /// SHA-256 of what it decides by: a package's manifest, a latency table; empty without any.
    pub(crate) decides_by: String,
    /// Its numbers, if it decides nothing: of constants and fixed rules of copies.
    pub(crate) setting: Option<StaticEntrant>,
}

/// What a contender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Plain decoding.
    Plain,
    /// A constant.
    Constant,
    /// A constant that expands all of the beam.
    WholeBeam,
    /// A rule of copies.
    Rule,
    /// A published rule.
    Published,
    /// What a package holds.
    Policy,
    /// What a package falls back to.
    Fallback,
}

/// The first thing in which two comparisons differ, in words.
pub(super) fn difference(found: &Compared, wanted: &Compared) -> Option<String> {
    let contenders = |compared: &Compared| -> Vec<String> {
        compared.contenders.iter().map(|entrant| entrant.name.clone()).collect()
    };
    let tasks = |compared: &Compared| -> Vec<String> {
        compared.tasks.iter().map(|task| task.name.clone()).collect()
    };
    let differing = lists_differ("contenders", &contenders(found), &contenders(wanted))
        .or_else(|| lists_differ("tasks", &tasks(found), &tasks(wanted)));
    if differing.is_some() {
        return differing;
    }
    let mut entrants = found.contenders.iter().zip(&wanted.contenders);
    if let Some((entrant, _)) = entrants.find(|(here, there)| here != there) {
        let name = &entrant.name;
        return Some(format!("{name} decides by another package, table or file of classifiers"));
    }
    let mut tasks = found.tasks.iter().zip(&wanted.tasks);
    if let Some((task, asked)) = tasks.find(|(here, there)| here != there) {
        let (name, here, there) = (&task.name, task.questions, asked.questions);
        return Some(format!("{name} has other questions ({here}, this command asks {there})"));
    }
    let values = |compared: &Compared| serde_json::to_value(compared).expect("invariant: plain data");
    let (found, wanted) = (values(found), values(wanted));
    let keys = found.as_object().into_iter().flat_map(|object| object.keys());
    let mut differing = keys.filter(|key| found[*key] != wanted[*key]);
    differing.next().map(|key| in_words(key, &found[key], &wanted[key]))
}

/// How two lists of names differ.
fn lists_differ(what: &str, found: &[String], wanted: &[String]) -> Option<String> {
    let without = |list: &[String], others: &[String]| {
        let alone = list.iter().filter(|name| !others.contains(name)).map(String::as_str);
        alone.collect::<Vec<_>>().join(", ")
    };
    if found == wanted {
        return None;
    }
    Some(match [without(found, wanted), without(wanted, found)] {
        [here, there] if here.is_empty() && there.is_empty() => format!("its {what} are in another order"),
        [here, there] if here.is_empty() => format!("its {what} lack {there}"),
        [here, there] if there.is_empty() => format!("its {what} have {here}, too"),
        [here, there] => format!("its {what} have {here} in place of {there}"),
    })
}

/// How two values of a key differ. Of lists, the first entry that does is told.
fn in_words(key: &str, found: &serde_json::Value, wanted: &serde_json::Value) -> String {
    let (Some(here), Some(there)) = (found.as_array(), wanted.as_array()) else {
        return format!("{key} is {found}, expected {wanted}");
    };
    let entry = |list: &[serde_json::Value], place: usize| {
        list.get(place).map_or_else(|| "nothing".to_owned(), ToString::to_string)
    };
    let place = (0..here.len().max(there.len())).find(|&place| here.get(place) != there.get(place));
    let place = place.unwrap_or(0);
    format!("{key}[{place}] is {}, expected {}", entry(here, place), entry(there, place))
}

/// In what comparisons differ, contenders aside.
pub(crate) fn differing<'c>(compared: impl Iterator<Item = &'c Compared>) -> Vec<String> {
    let values: Vec<serde_json::Value> =
        compared.map(|compared| serde_json::to_value(compared).expect("invariant: plain data")).collect();
    let keys = values.first().and_then(|first| first.as_object()).into_iter().flat_map(|first| first.keys());
    let differs = |key: &&String| values.iter().any(|value| value[*key] != values[0][*key]);
    keys.filter(|key| *key != "contenders").filter(differs).cloned().collect()
}
