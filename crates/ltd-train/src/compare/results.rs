//! A comparison as a file: every cycle of every contender, a line for each turn of a question,
//! written when the turn is done. A report is made of it alone, and a comparison that was ended
//! goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ltd_engine::{CycleOutcome, CycleTiming};
use ltd_policy::DraftSource;
use serde::{Deserialize, Serialize};

use ltd_env::trace::Shard;

use super::header::{Compared, Entrant, Header, Program, Role, difference};
use super::plan::Case;
use crate::evaluate::Answer;
use crate::{Error, Result};

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
        let Some(Contents { header: mut found, turns, last, whole_bytes }) = Contents::read(path)? else {
            // Nothing is there, or a part of a header.
            file.set_len(0).map_err(io)?;
            write_line(&mut file, &header).map_err(io)?;
            return Ok((Self { kept: Some((path.to_owned(), file)), turns: Vec::new() }, header));
        };
        if let Some(difference) = difference(&found.compared, &header.compared) {
            let remedy = "name another file";
            return Err(problem(format!("it is of another comparison: {difference}: {remedy}")));
        }
        file.set_len(whole_bytes).map_err(io)?;
        if last != header.program {
            let resumed = header.program;
            found.notes.push(went_on(&turns, &resumed, &last));
            write_line(&mut file, &Resumed { resumed }).map_err(io)?;
        }
        Ok((Self { kept: Some((path.to_owned(), file)), turns }, found))
    }

    /// Whether there is a file of them.
    pub(crate) fn are_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Questions that are there with all their turns.
    pub(crate) fn questions(&self) -> usize {
        self.turns.iter().filter(|turn| turn.is_last()).count()
    }

    /// What is wrong with it, as an error.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        let path = self.kept.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        Error::Results { path, problem: format!("it is damaged: {what}") }
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

/// What a note of another program begins with.
pub(super) const WENT_ON: &str = "From question";
/// What is said of a file with a header alone.
const NOTHING_YET: &str = "nothing is measured yet";

/// What is in a file.
struct Contents {
    header: Header,
    turns: Vec<Turn>,
    /// The program that measured last.
    last: Program,
    /// Bytes of the lines that are whole.
    whole_bytes: u64,
}

/// A line that tells of another program which went on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resumed {
    resumed: Program,
}

/// In words, that another program measures after some turns.
fn went_on(turns: &[Turn], program: &Program, before: &Program) -> String {
    let from = turns.iter().filter(|turn| turn.is_last()).count() + 1;
    format!("{WENT_ON} {from} on, {program} measured, before it {before}.")
}

/// What every file begins with.
const BEGINNING: &[u8] = br#"{"compared":"#;
/// What a line of [`Resumed`] begins with.
const RESUMED: &str = r#"{"resumed":"#;
/// Most questions of a comparison: what a damaged header asks for must fit in memory.
const MOST_CASES: usize = 10_000_000;

impl Contents {
    /// None if there is nothing, or no more than a part of a header.
    fn read(path: &Path) -> Result<Option<Self>> {
        let problem = |problem: String| Error::Results { path: path.to_owned(), problem };
        if path.is_dir() {
            return Err(problem("is a folder, expected a file".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
        if bytes.iter().zip(BEGINNING).any(|(found, expected)| found != expected) {
            return Err(problem("it holds no results of a comparison".to_owned()));
        }
        // A line is whole if it has an end.
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Ok(None) };
        let text = str::from_utf8(&bytes[..=end]).map_err(|error| problem(error.to_string()))?;
        let mut lines = text.lines();
        let mut header = read_first(lines.next().unwrap_or_default()).map_err(problem)?;
        let (mut last, mut notes) = (header.program.clone(), Vec::new());
        let mut reading = Reading::of(&header.compared);
        for (line, text) in (2..).zip(lines) {
            let damaged = |what: String| {
                problem(format!(
                    "line {line} is damaged: {what}; the lines before it, in a file of their own, can be gone on with"
                ))
            };
            if text.starts_with(RESUMED) {
                let Resumed { resumed } = serde_json::from_str(text).map_err(|error| damaged(why(&error)))?;
                notes.push(went_on(&reading.turns, &resumed, &last));
                last = resumed;
                continue;
            }
            if text.as_bytes().starts_with(BEGINNING) {
                let problem = problem(format!(
                    "line {line} is the beginning of another comparison: give each a file of its own"
                ));
                return Err(problem);
            }
            let turn: Turn = match text.trim() {
                "" => return Err(damaged("it is empty".to_owned())),
                text => serde_json::from_str(text).map_err(|error| damaged(why(&error)))?,
            };
            reading.add(turn).map_err(damaged)?;
        }
        let turns = reading.turns;
        header.notes.append(&mut notes);
        Ok(Some(Self { header, turns, last, whole_bytes: end as u64 + 1 }))
    }
}

/// What JSON is wrong, and where in its line.
fn why(error: &serde_json::Error) -> String {
    let (text, place) = (error.to_string(), format!(" at line 1 column {}", error.column()));
    text.strip_suffix(&place)
        .map_or_else(|| text.clone(), |what| format!("{what} (column {})", error.column()))
}

/// The header, or what is wrong with it.
fn read_first(line: &str) -> Result<Header, String> {
    let damaged = |what: String| format!("line 1 is damaged: {what}");
    let first: serde_json::Value = serde_json::from_str(line).map_err(|error| damaged(why(&error)))?;
    let version = &first["compared"]["version"];
    if *version != Compared::VERSION {
        return Err(format!("its form is of version {version}, expected {}", Compared::VERSION));
    }
    let header: Header = serde_json::from_value(first).map_err(|error| damaged(error.to_string()))?;
    let Compared { contenders, tasks, samplings, .. } = &header.compared;
    let roles: Vec<Role> = contenders.iter().map(|entrant| entrant.role).collect();
    let names: BTreeSet<&str> = contenders.iter().map(|entrant| entrant.name.as_str()).collect();
    if names.len() < roles.len() {
        return Err(damaged("two contenders have one name".to_owned()));
    }
    if tasks.is_empty() || samplings.is_empty() {
        return Err(damaged("expected tasks and samplings".to_owned()));
    }
    if header.compared.shard.is_some_and(|shard| shard.index >= shard.of || shard.of > Shard::MOST) {
        return Err(damaged("its shard is beyond their number".to_owned()));
    }
    if header.compared.cases() > MOST_CASES {
        let cases = header.compared.cases();
        return Err(damaged(format!("{cases} questions, expected at most {MOST_CASES}")));
    }
    let unchanging = |entrant: &&Entrant| {
        matches!(entrant.role, Role::Constant | Role::WholeBeam | Role::Rule) && entrant.setting.is_none()
    };
    if let Some(entrant) = contenders.iter().find(unchanging) {
        return Err(damaged(format!("{} has no setting", entrant.name)));
    }
    if roles.first() != Some(&Role::Plain) || !roles.contains(&Role::Constant) {
        let expected = "plain decoding as the first contender, and a constant";
        return Err(damaged(format!("expected {expected}")));
    }
    Ok(header)
}

/// Turns of a comparison that are read one after another.
struct Reading<'h> {
    compared: &'h Compared,
    plan: Vec<Case>,
    /// Per task, the places in the file of those of its questions that were read.
    places: Vec<BTreeMap<usize, u64>>,
    turns: Vec<Turn>,
}

impl<'h> Reading<'h> {
    fn of(compared: &'h Compared) -> Self {
        let places = vec![BTreeMap::new(); compared.tasks.len()];
        Self { compared, plan: compared.plan(), places, turns: Vec::new() }
    }

    /// Adds a turn, or says what is wrong with it after those before.
    fn add(&mut self, turn: Turn) -> Result<(), String> {
        let Compared { contenders, max_depth, capacity, .. } = self.compared;
        let step = self.compared.shard.map_or(1, |shard| shard.of);
        let expected = match self.turns.last() {
            None => (self.compared.shard.map_or(0, |shard| shard.index), 0),
            Some(Turn { case, number, follows: Follows::Turn, .. }) => (*case, number + 1),
            Some(Turn { case, .. }) => (case.saturating_add(step), 0),
        };
        let planned = self.plan.get(turn.case).filter(|_| (turn.case, turn.number) == expected);
        let Some(planned) = planned else {
            let ((case, number), cases) = (expected, self.plan.len());
            let found = format!("case {} turn {}", turn.case, turn.number);
            return Err(format!("{found}, expected case {case} of {cases} turn {number}"));
        };
        let Case { task, conversation, sampling, repetition } = *planned;
        let [found, expected] = [[turn.task, turn.sampling, turn.repetition], [task, sampling, repetition]]
            .map(|places| {
                let [task, sampling, repetition] = places;
                format!("task {task}, sampling {sampling}, repetition {repetition}")
            });
        if found != expected {
            return Err(format!("{found}, expected {expected}"));
        }
        // Questions stand in the task in the order of their file.
        let places = &mut self.places[task];
        let fits = places.range(..conversation).next_back().is_none_or(|(_, before)| *before < turn.question)
            && places.range(conversation + 1..).next().is_none_or(|(_, after)| turn.question < *after)
            && places.get(&conversation).is_none_or(|before| *before == turn.question);
        if !fits {
            let (question, before) = (turn.question, places.get(&conversation));
            let expected = before.map_or_else(|| "another".to_owned(), ToString::to_string);
            return Err(format!("question {question} of its task, expected {expected}"));
        }
        places.insert(conversation, turn.question);
        let (found, expected) = (turn.answers.len(), contenders.len());
        if found != expected {
            return Err(format!("{found} answers, expected {expected}"));
        }
        if turn.answers[0].failed.is_some() {
            return Err("plain decoding failed".to_owned());
        }
        if turn.pieces.len() != turn.said().len() {
            let (found, expected) = (turn.pieces.len(), turn.said().len());
            return Err(format!("{found} pieces of text, expected {expected}, one a token"));
        }
        let mut cycles = turn.answers.iter().flat_map(|answer| &answer.cycles);
        if cycles.any(|cycle| cycle.depth as usize > *max_depth || cycle.verified as usize >= *capacity) {
            let what = "a cycle is deeper or larger than the engine makes them";
            return Err(format!("{what}, at most depth {max_depth} in {capacity} positions"));
        }
        if !turn.answers.iter().all(AnswerLine::is_whole) {
            return Err("an answer is not what its cycles yielded".to_owned());
        }
        self.turns.push(turn);
        Ok(())
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

/// A file's header, what was measured, and the program that measured last.
///
/// # Errors
/// If it cannot be read, has no header, or is damaged before its last line.
pub(crate) fn read_results(path: &Path) -> Result<(Header, Vec<Turn>, Program)> {
    let contents = Contents::read(path)?.ok_or_else(|| nothing_yet(path))?;
    Ok((contents.header, contents.turns, contents.last))
}

/// What is wrong with a file in which there is nothing to report.
pub(crate) fn nothing_yet(path: &Path) -> Error {
    Error::Results { path: path.to_owned(), problem: NOTHING_YET.to_owned() }
}

/// All of a line, and on the disk when this returns.
fn write_line(file: &mut File, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
