//! Files of results as they are read: nothing in them is taken for granted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ltd_env::trace::Shard;

use super::header::{Compared, Entrant, Header, Program, Role};
use super::plan::Case;
use super::results::{AnswerLine, Follows, RESUMED, Resumed, Turn, went_on};
use crate::{Error, Result};

/// What every file begins with.
const BEGINNING: &[u8] = br#"{"compared":"#;
/// What is said of a file with a header alone.
const NOTHING_YET: &str = "nothing is measured yet";
/// Most questions of a comparison: what a damaged header asks for must fit in memory.
const MOST_CASES: usize = 10_000_000;

/// What is in a file.
pub(super) struct Contents {
    pub(super) header: Header,
    pub(super) turns: Vec<Turn>,
    /// The program that measured last.
    pub(super) last: Program,
    /// Bytes of the lines that are whole.
    pub(super) whole_bytes: u64,
}

impl Contents {
    /// None if there is nothing, or no more than a part of a header.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
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
