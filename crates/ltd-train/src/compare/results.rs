//! A comparison as a file: every cycle of every contender, a line for each turn of a question,
//! written when the turn is done. A report is made of it alone, and a comparison that was ended
//! goes on.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ltd_engine::{CycleOutcome, CycleTiming, SamplingParams};
use ltd_policy::DraftSource;
use serde::{Deserialize, Serialize};

use crate::evaluate::{Answer, StaticEntrant};
use crate::{Error, Result};

/// What a file of results begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    /// What was compared.
    pub(crate) compared: Compared,
    /// Program and version.
    pub(crate) program: String,
    /// Of the program's sources.
    pub(crate) git_revision: Option<String>,
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
}

impl Compared {
    /// Version of the form.
    pub(crate) const VERSION: u32 = 2;

    /// Questions to ask, those of all tasks as often as they are asked.
    pub(crate) fn cases(&self) -> usize {
        let questions: usize = self.tasks.iter().map(|task| task.questions).sum();
        questions.saturating_mul(self.samplings.len()).saturating_mul(self.repetitions)
    }
}

impl Compared {
    /// What is wrong with a turn after another one.
    fn problem(&self, before: Option<&Turn>, turn: &Turn) -> Option<String> {
        let expected = match before {
            None => (0, 0),
            Some(Turn { case, number, follows: Follows::Turn, .. }) => (*case, number + 1),
            Some(Turn { case, .. }) => (case + 1, 0),
        };
        let cases = self.cases();
        if (turn.case, turn.number) != expected || turn.case >= cases {
            let (case, number) = expected;
            let found = format!("case {} turn {}", turn.case, turn.number);
            return Some(format!("{found}, expected case {case} of {cases} turn {number}"));
        }
        let (found, expected) = (turn.answers.len(), self.contenders.len());
        if found != expected {
            return Some(format!("{found} answers, expected {expected}"));
        }
        let known = turn.task < self.tasks.len() && turn.sampling < self.samplings.len();
        if !known || turn.repetition >= self.repetitions {
            return Some("task, sampling or repetition is beyond those of the comparison".to_owned());
        }
        if turn.answers[0].failed.is_some() {
            return Some("plain decoding failed".to_owned());
        }
        if turn.pieces.len() != turn.said().len() {
            let (found, expected) = (turn.pieces.len(), turn.said().len());
            return Some(format!("{found} pieces of text, expected {expected}, one a token"));
        }
        let cycles = turn.answers.iter().flat_map(|answer| &answer.cycles);
        let beyond = |cycle: &CycleLine| {
            cycle.depth as usize > self.max_depth || cycle.verified as usize >= self.capacity
        };
        if cycles.into_iter().any(beyond) {
            let (depth, capacity) = (self.max_depth, self.capacity);
            let what = "a cycle is deeper or larger than the engine makes them";
            return Some(format!("{what}, at most depth {depth} in {capacity} positions"));
        }
        let whole = turn.answers.iter().all(AnswerLine::is_whole);
        (!whole).then(|| "an answer is not what its cycles yielded".to_owned())
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

/// What all contenders made of a turn of a question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// Number of the case, in the order in which they were decoded.
    pub(crate) case: usize,
    /// Which turn of the question.
    #[serde(rename = "turn")]
    pub(crate) number: usize,
    /// Which of the comparison's tasks it belongs to.
    pub(crate) task: usize,
    /// Place of the question in its file.
    pub(crate) question: u64,
    /// What the file calls it.
    pub(crate) id: String,
    /// Category of the question.
    pub(crate) category: Option<String>,
    /// Which of the comparison's ways to choose tokens.
    pub(crate) sampling: usize,
    pub(crate) repetition: usize,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Turns that follow.
    pub(crate) follows: Follows,
    /// The text of plain decoding's tokens, one by one.
    pub(crate) pieces: Vec<String>,
    /// In the order of the contenders.
    pub(crate) answers: Vec<AnswerLine>,
}

/// What comes after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Follows {
    /// The next turn of the question.
    Turn,
    /// Another question.
    Question,
    /// Another question, because the next turn does not fit the caches.
    NoRoom,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerLine {
    /// The answer's tokens.
    output: Vec<u32>,
    cycles: Vec<CycleLine>,
    /// What later decisions of the contender depend on.
    state: serde_json::Value,
    /// Why there is no answer, here and from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Turn {
    /// What a contender made of it; nothing if it has failed.
    pub(crate) fn answer(&self, contender: usize) -> Option<Answer> {
        let line = &self.answers[contender];
        line.failed.is_none().then(|| line.answer())
    }

    /// Why a contender has failed, here or before.
    pub(crate) fn failure(&self, contender: usize) -> Option<&str> {
        self.answers[contender].failed.as_deref()
    }

    /// Whether all that have not failed had a cycle.
    pub(crate) fn counts(&self) -> bool {
        self.answers.iter().all(|line| line.failed.is_some() || !line.cycles.is_empty())
    }

    /// What decisions after it depend on, for each contender.
    pub(crate) fn states(&self) -> impl Iterator<Item = &serde_json::Value> {
        self.answers.iter().map(|answer| &answer.state)
    }

    /// Whether the question has no further turn.
    pub(crate) fn is_last(&self) -> bool {
        self.follows != Follows::Turn
    }

    /// Plain decoding's tokens.
    pub(crate) fn said(&self) -> &[u32] {
        &self.answers[0].output
    }
}

/// A cycle ([`CycleOutcome`]); times in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CycleLine {
    context: u32,
    source: DraftSource,
    match_length: u32,
    depth: u32,
    level_rows: Vec<u32>,
    asked: u32,
    verified: u32,
    accepted: Vec<u32>,
    next: u32,
    drafted: Option<u32>,
    copied: Option<u32>,
    draft_ns: u64,
    policy_ns: u64,
    verify_ns: u64,
}

impl From<&CycleOutcome> for CycleLine {
    fn from(outcome: &CycleOutcome) -> Self {
        let ns = |time: Duration| time.as_nanos() as u64;
        // Of a cache's positions, which are fewer.
        let small = |count: usize| count as u32;
        Self {
            context: small(outcome.context_length),
            source: outcome.source,
            match_length: small(outcome.match_length),
            depth: small(outcome.draft_depth),
            level_rows: outcome.level_rows.iter().copied().map(small).collect(),
            asked: small(outcome.requested_size),
            verified: small(outcome.verification_size),
            accepted: outcome.accepted_ids.clone(),
            next: outcome.next_token,
            drafted: outcome.drafted.map(small),
            copied: outcome.copied.map(small),
            draft_ns: ns(outcome.timing.draft),
            policy_ns: ns(outcome.timing.policy),
            verify_ns: ns(outcome.timing.verify),
        }
    }
}

impl From<&CycleLine> for CycleOutcome {
    fn from(line: &CycleLine) -> Self {
        let [draft, policy, verify] =
            [line.draft_ns, line.policy_ns, line.verify_ns].map(Duration::from_nanos);
        Self {
            source: line.source,
            match_length: line.match_length as usize,
            drafted: line.drafted.map(|count| count as usize),
            copied: line.copied.map(|count| count as usize),
            accepted_ids: line.accepted.clone(),
            next_token: line.next,
            draft_depth: line.depth as usize,
            level_rows: line.level_rows.iter().map(|&rows| rows as usize).collect(),
            verification_size: line.verified as usize,
            requested_size: line.asked as usize,
            context_length: line.context as usize,
            timing: CycleTiming { draft, policy, verify, ..CycleTiming::default() },
        }
    }
}

/// What was measured, and where it is kept.
pub(crate) struct Results {
    kept: Option<(PathBuf, File)>,
    pub(crate) turns: Vec<Turn>,
}

impl Results {
    /// Keeps nothing.
    pub(crate) fn passing() -> Self {
        Self { kept: None, turns: Vec::new() }
    }

    /// Begins a file, or goes on with one of the same comparison, and returns its header. What of a
    /// line was written last without its end is dropped.
    ///
    /// # Errors
    /// If the file is of another comparison or in use, or damaged before its last line.
    pub(crate) fn open(path: &Path, header: Header) -> Result<(Self, Header)> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let problem = |problem| Error::Results { path: path.to_owned(), problem };
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
        if file.try_lock().is_err() {
            return Err(problem("another process writes to it".to_owned()));
        }
        let Some(Contents { header: found, turns, whole_bytes }) = Contents::read(path)? else {
            // Nothing is there, or a part of a header.
            file.set_len(0).map_err(io)?;
            write_line(&mut file, &header).map_err(io)?;
            return Ok((Self { kept: Some((path.to_owned(), file)), turns: Vec::new() }, header));
        };
        if let Some(difference) = difference(&found.compared, &header.compared) {
            let remedy = "name another file, or remove it";
            return Err(problem(format!("it is of another comparison: {difference}: {remedy}")));
        }
        file.set_len(whole_bytes).map_err(io)?;
        Ok((Self { kept: Some((path.to_owned(), file)), turns }, found))
    }

    /// Questions that are there with all their turns.
    pub(crate) fn questions(&self) -> usize {
        self.turns.iter().filter(|turn| turn.is_last()).count()
    }

    /// What is wrong with the last line, as an error.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        let path = self.kept.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        Error::Results { path, problem: format!("its last line is damaged: {what}") }
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, turn: Turn) -> Result<()> {
        if let Some((path, file)) = &mut self.kept {
            write_line(file, &turn).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        self.turns.push(turn);
        Ok(())
    }
}

impl AnswerLine {
    /// An answer, or why there is none, and what later decisions depend on.
    pub(crate) fn new(answer: Result<Answer, String>, state: serde_json::Value) -> Self {
        let (answer, failed) = match answer {
            Ok(answer) => (answer, None),
            Err(why) => (Answer::default(), Some(why)),
        };
        let cycles = answer.outcomes.iter().map(CycleLine::from).collect();
        Self { output: answer.output, cycles, state, failed }
    }

    /// How many cycles it took.
    #[cfg(test)]
    pub(super) fn cycles(&self) -> usize {
        self.cycles.len()
    }

    /// Whether the answer is what its cycles yielded, which a stop rule may have cut.
    fn is_whole(&self) -> bool {
        if self.failed.is_some() {
            return self.cycles.is_empty() && self.output.is_empty();
        }
        let Some(last) = self.cycles.last() else { return true };
        let yielded = self.cycles.iter().flat_map(|cycle| &cycle.accepted).chain([&last.next]);
        let mut output = self.output.iter();
        let begins = yielded.zip(output.by_ref()).all(|(yielded, said)| yielded == said);
        begins && output.next().is_none() && !self.output.is_empty()
    }

    fn answer(&self) -> Answer {
        let outcomes = self.cycles.iter().map(CycleOutcome::from).collect();
        Answer::recorded(outcomes, self.output.clone())
    }
}

/// What is said of a file with a header alone.
const NOTHING_YET: &str = "nothing is measured yet";

/// What is in a file.
struct Contents {
    header: Header,
    turns: Vec<Turn>,
    /// Bytes of the lines that are whole.
    whole_bytes: u64,
}

/// What every file begins with.
const BEGINNING: &[u8] = br#"{"compared":"#;

impl Contents {
    /// None if there is nothing, or no more than a part of a header.
    fn read(path: &Path) -> Result<Option<Self>> {
        let problem = |problem: String| Error::Results { path: path.to_owned(), problem };
        let damaged = |line: usize, what: String| problem(format!("line {line} is damaged: {what}"));
        let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
        if bytes.iter().zip(BEGINNING).any(|(found, expected)| found != expected) {
            return Err(problem("it holds no results of a comparison".to_owned()));
        }
        // A line is whole if it has an end.
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Ok(None) };
        let text = str::from_utf8(&bytes[..=end]).map_err(|error| problem(error.to_string()))?;
        let mut lines = text.lines().enumerate();
        let first = lines.next().map_or("", |(_, first)| first);
        let first: serde_json::Value =
            serde_json::from_str(first).map_err(|error| damaged(1, error.to_string()))?;
        let version = &first["compared"]["version"];
        if *version != Compared::VERSION {
            return Err(problem(format!("its form is of version {version}, expected {}", Compared::VERSION)));
        }
        let header: Header = serde_json::from_value(first).map_err(|error| damaged(1, error.to_string()))?;
        let roles: Vec<Role> = header.compared.contenders.iter().map(|entrant| entrant.role).collect();
        let names: BTreeSet<&str> =
            header.compared.contenders.iter().map(|entrant| entrant.name.as_str()).collect();
        if names.len() < roles.len() {
            return Err(damaged(1, "two contenders have one name".to_owned()));
        }
        if header.compared.tasks.is_empty() || header.compared.samplings.is_empty() {
            return Err(damaged(1, "expected tasks and samplings".to_owned()));
        }
        let unchanging = |entrant: &&Entrant| {
            matches!(entrant.role, Role::Constant | Role::WholeBeam | Role::Rule) && entrant.setting.is_none()
        };
        if let Some(entrant) = header.compared.contenders.iter().find(unchanging) {
            return Err(damaged(1, format!("{} has no setting", entrant.name)));
        }
        if roles.first() != Some(&Role::Plain) || !roles.contains(&Role::Constant) {
            let expected = "plain decoding as the first contender, and a constant";
            return Err(damaged(1, format!("expected {expected}")));
        }
        let mut turns: Vec<Turn> = Vec::new();
        for (number, text) in lines {
            let turn: Turn =
                serde_json::from_str(text).map_err(|error| damaged(number + 1, error.to_string()))?;
            if let Some(what) = header.compared.problem(turns.last(), &turn) {
                return Err(damaged(number + 1, what));
            }
            turns.push(turn);
        }
        Ok(Some(Self { header, turns, whole_bytes: end as u64 + 1 }))
    }
}

/// The header of a file that was begun, if it was.
///
/// # Errors
/// If it cannot be read, or is damaged before its last line.
pub(crate) fn read_header(path: &Path) -> Result<Option<Header>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Contents::read(path)?.map(|contents| contents.header))
}

/// A file's header and what was measured, at least one turn.
///
/// # Errors
/// If it cannot be read, or is damaged before its last line.
pub(crate) fn read_results(path: &Path) -> Result<(Header, Vec<Turn>)> {
    let contents = Contents::read(path)?.filter(|contents| !contents.turns.is_empty());
    let nothing = || Error::Results { path: path.to_owned(), problem: NOTHING_YET.to_owned() };
    contents.map(|contents| (contents.header, contents.turns)).ok_or_else(nothing)
}

/// The first thing in which two comparisons differ, in words.
fn difference(found: &Compared, wanted: &Compared) -> Option<String> {
    let values = |compared: &Compared| serde_json::to_value(compared).expect("invariant: plain data");
    let (found, wanted) = (values(found), values(wanted));
    let keys = found.as_object().into_iter().flat_map(|object| object.keys());
    let mut differing = keys.filter(|key| found[*key] != wanted[*key]);
    differing.next().map(|key| in_words(key, &found[key], &wanted[key]))
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

/// All of a line, and on the disk when this returns.
fn write_line(file: &mut File, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
