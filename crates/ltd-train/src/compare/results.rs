//! A comparison as a file: every cycle of every contender, a line for each turn of a question,
//! written when the turn is done. A report is made of it alone, and a comparison that was ended
//! goes on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ltd_engine::{CycleOutcome, CycleTiming};
use ltd_policy::DraftSource;
use serde::{Deserialize, Serialize};

use super::header::{Header, Program, difference};
use super::reading::Contents;
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
    pub(super) cycles: Vec<CycleLine>,
    /// What later decisions of the contender depend on.
    state: serde_json::Value,
    /// Why there is no answer, here and from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<String>,
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
pub(super) struct CycleLine {
    context: u32,
    source: DraftSource,
    match_length: u32,
    pub(super) depth: u32,
    level_rows: Vec<u32>,
    asked: u32,
    pub(super) verified: u32,
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
    pub(super) fn is_whole(&self) -> bool {
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

/// A line that tells of another program which went on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resumed {
    pub(super) resumed: Program,
}

/// In words, that another program measures after some turns.
pub(super) fn went_on(turns: &[Turn], program: &Program, before: &Program) -> String {
    let from = turns.iter().filter(|turn| turn.is_last()).count() + 1;
    format!("{WENT_ON} {from} on, {program} measured, before it {before}.")
}

/// What a line of [`Resumed`] begins with.
pub(super) const RESUMED: &str = r#"{"resumed":"#;
/// All of a line, and on the disk when this returns.
fn write_line(file: &mut File, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
