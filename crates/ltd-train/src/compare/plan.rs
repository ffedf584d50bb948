//! What a comparison decodes, and in which order.

use std::path::PathBuf;

use ltd_console::count;
use ltd_engine::text::{Prompt, Question, TextModel, load_questions};
use ltd_engine::{Engine, StopRule};
use ltd_env::stream;
use ltd_policy::sha256_hex;
use ltd_run::config::PromptSet;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::{Error, Result};

/// Questions of one kind.
pub(super) struct Task {
    /// What it is called: the file without its ending.
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// SHA-256 of the file.
    pub(super) file_sha256: String,
    pub(super) conversations: Vec<Conversation>,
}

/// A question with all its turns.
#[derive(Debug, Serialize)]
pub(super) struct Conversation {
    pub(super) id: String,
    pub(super) category: Option<String>,
    /// Its place in the file, which numbers the sequence that it is drawn by.
    pub(super) number: u64,
    /// The prompt of the first turn.
    pub(super) first: Vec<u32>,
    /// The user's messages; none of a prompt in tokens.
    messages: Vec<String>,
}

/// One conversation that every contender is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) task: usize,
    pub(super) conversation: usize,
    /// Which way to choose tokens.
    pub(super) sampling: usize,
    pub(super) repetition: usize,
}

impl Task {
    /// Reads a file of questions. Those whose first turns do not fit the engine's cache with an
    /// answer of `longest` tokens are left out, which a note tells.
    ///
    /// # Errors
    /// If none is left, or the file or one of its prompts makes no sense.
    pub(super) fn read(
        set: &PromptSet,
        text: &TextModel,
        engine: &Engine,
        longest: usize,
    ) -> Result<(Self, Option<String>)> {
        let questions = load_questions(&set.file, set.skip, set.take)?;
        let prompts = text.prompts(&questions, &set.file)?;
        let all = prompts.len();
        let fits = |prompt: &Prompt| fits(&prompt.ids, longest, engine);
        let fitting: Vec<Prompt> = prompts.iter().filter(|prompt| fits(prompt)).cloned().collect();
        ltd_run::prompts::check_fit(set, &fitting, engine)?;
        let read = (set.skip..).zip(questions).zip(prompts).filter(|(_, prompt)| fits(prompt));
        let conversations = read.map(|((place, question), prompt)| {
            let Question { id, category, turns, token_ids } = question;
            let messages = if token_ids.is_some() { Vec::new() } else { turns };
            Conversation { id, category, number: place as u64, first: prompt.ids, messages }
        });
        let file = set.file.display();
        let too_long = format!("do not fit engine.max_length with an answer of {longest} tokens");
        if fitting.is_empty() {
            return Err(Error::Recorded(format!("{file}: of {} all {too_long}", count(all, "question"))));
        }
        let left = all - fitting.len();
        let note = (left > 0).then(|| {
            let (left, all) = (count(left, "question"), count(all, "question"));
            format!("{file}: {left} of {all} {too_long}, and are left out.")
        });
        let name = set.file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let bytes = std::fs::read(&set.file);
        let bytes = bytes.map_err(|source| Error::Io { path: set.file.clone(), source })?;
        let (file, file_sha256) = (set.file.clone(), sha256_hex(&bytes));
        Ok((Self { name, file, file_sha256, conversations: conversations.collect() }, note))
    }

    /// SHA-256 of what is asked.
    pub(super) fn sha256(&self) -> String {
        let asked = serde_json::to_string(&self.conversations).expect("invariant: plain data");
        sha256_hex(asked.as_bytes())
    }
}

impl Conversation {
    /// Whether there is a turn after so many answers.
    pub(super) fn goes_on(&self, answers: usize) -> bool {
        answers < self.messages.len()
    }

    /// The prompt of the turn after some answers; none where there is no such turn, or it does not
    /// fit with an answer.
    pub(super) fn turn(
        &self,
        answers: &[String],
        text: &TextModel,
        engine: &Engine,
        stop: &StopRule,
    ) -> Result<Option<Vec<u32>>> {
        if answers.is_empty() {
            return Ok(Some(self.first.clone()));
        }
        if !self.goes_on(answers.len()) {
            return Ok(None);
        }
        let messages: Vec<&str> = self.messages[..=answers.len()].iter().map(String::as_str).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let ids = text.encode_conversation(&messages, &answers)?.unwrap_or_default();
        Ok(fits(&ids, stop.max_new_tokens, engine).then_some(ids))
    }
}

/// Whether the engine has room for a prompt and an answer.
fn fits(prompt: &[u32], longest: usize, engine: &Engine) -> bool {
    prompt.len() + longest < engine.capacity()
}

/// All cases in random order, in which every task and every way to choose tokens comes once before
/// any comes again: what was measured when a comparison ends early is of all of them alike, and
/// what drifts does so for all. Repetitions of a question come after the first of all questions.
pub(super) fn plan(questions: &[usize], samplings: usize, repetitions: usize, seed: u64) -> Vec<Case> {
    let mut random = stream(seed, "order of questions");
    let most = questions.iter().copied().max().unwrap_or(0);
    let mut cases = Vec::new();
    for repetition in 0..repetitions {
        let orders: Vec<Vec<Vec<usize>>> = questions
            .iter()
            .map(|&questions| {
                let shuffled = (0..samplings).map(|_| {
                    let mut order: Vec<usize> = (0..questions).collect();
                    order.shuffle(&mut random);
                    order
                });
                shuffled.collect()
            })
            .collect();
        for round in 0..most {
            let mut now: Vec<Case> = Vec::new();
            for (task, orders) in orders.iter().enumerate() {
                for (sampling, order) in orders.iter().enumerate() {
                    let conversation = order.get(round).copied();
                    now.extend(conversation.map(|conversation| Case {
                        task,
                        conversation,
                        sampling,
                        repetition,
                    }));
                }
            }
            now.shuffle(&mut random);
            cases.extend(now);
        }
    }
    cases
}

/// Fails if two tasks have one name.
pub(super) fn check_names(tasks: &[Task]) -> Result<()> {
    for (index, task) in tasks.iter().enumerate() {
        if let Some(other) = tasks[..index].iter().find(|other| other.name == task.name) {
            let problem = "have one name, by which tasks are told apart";
            let (one, two) = (other.file.display(), task.file.display());
            return Err(Error::Recorded(format!("--questions: {one} and {two} {problem}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_comes_once_and_no_task_runs_ahead() {
        let cases = plan(&[3, 1, 4], 2, 2, 5);
        let all: BTreeSet<(usize, usize, usize, usize)> =
            cases.iter().map(|case| (case.repetition, case.task, case.conversation, case.sampling)).collect();
        assert_eq!((cases.len(), all.len()), (2 * 2 * 8, 2 * 2 * 8));
        let first: BTreeSet<(usize, usize)> =
            cases[..6].iter().map(|case| (case.task, case.sampling)).collect();
        assert_eq!(first.len(), 6, "all tasks at all temperatures, {cases:?}");
        assert!(cases[..16].iter().all(|case| case.repetition == 0));
        assert_ne!(cases, plan(&[3, 1, 4], 2, 2, 6), "another seed, another order");
        assert_eq!(cases, plan(&[3, 1, 4], 2, 2, 5));
        assert_eq!(plan(&[], 1, 1, 0), []);
    }
}
