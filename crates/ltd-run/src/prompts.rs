//! The prompts of a run, as tokens.

use std::collections::HashMap;

use ltd_engine::Engine;
use ltd_engine::text::{Prompt, TextModel, load_questions};

use crate::config::{PromptSet, PromptSets};
use crate::{Error, Result};

/// Prompts of two sets that a message names; the rest is counted.
const MOST_NAMED: usize = 3;

/// All prompts of a run.
#[derive(Debug)]
pub struct Prompts {
    /// To learn from.
    pub train: Vec<Prompt>,
    /// To choose checkpoints and the best constant on.
    pub validation: Vec<Prompt>,
    /// For the final comparison.
    pub evaluation: Vec<Prompt>,
}

impl Prompts {
    /// Reads and encodes all sets. None may have a prompt of another: prompts that were learned
    /// from measure nothing. Prompts are told apart by their tokens, wherever they come from.
    pub fn read(sets: &PromptSets, text: &TextModel) -> Result<Self> {
        let prompts = Self {
            train: read(&sets.train, text)?,
            validation: read(&sets.validation, text)?,
            evaluation: read(&sets.evaluation, text)?,
        };
        let sets = prompts.sets();
        let pairs = sets
            .iter()
            .enumerate()
            .flat_map(|(index, set)| sets[..index].iter().map(move |other| (set, other)));
        let shared: Vec<String> = pairs
            .filter_map(|((name, prompts), (other, others))| {
                let shared = shared(questions(prompts), questions(others))?;
                Some(format!("prompts.{name} has {shared} of prompts.{other}"))
            })
            .collect();
        if shared.is_empty() { Ok(prompts) } else { Err(Error::SharedPrompts(shared.join("; "))) }
    }

    /// [`Prompts::read`] for an engine, whose cache every prompt must fit.
    pub fn load(sets: &PromptSets, text: &TextModel, engine: &Engine) -> Result<Self> {
        let prompts = Self::read(sets, text)?;
        check_fit(&sets.train, &prompts.train, engine)?;
        check_fit(&sets.validation, &prompts.validation, engine)?;
        check_fit(&sets.evaluation, &prompts.evaluation, engine)?;
        Ok(prompts)
    }

    /// The sets by their names.
    fn sets(&self) -> [(&'static str, &[Prompt]); 3] {
        [("train", &self.train), ("validation", &self.validation), ("evaluation", &self.evaluation)]
    }

    /// What is odd about the sets and no reason to stop: prompts that stand twice in one.
    pub fn warnings(&self) -> Vec<String> {
        let repeated = self.sets().into_iter().filter_map(|(name, prompts)| {
            let mut known: HashMap<&[u32], &str> = HashMap::new();
            let twice = prompts.iter().filter_map(|prompt| {
                let first = known.insert(&prompt.ids, &prompt.id)?;
                Some((prompt.id.clone(), first.to_owned()))
            });
            let list = list(&twice.collect::<Vec<_>>())?;
            Some(format!("prompts.{name} has {list} of its own again"))
        });
        repeated.collect()
    }
}

/// Reads and encodes a set; every prompt must fit the engine's cache.
pub fn load_prompts(set: &PromptSet, text: &TextModel, engine: &Engine) -> Result<Vec<Prompt>> {
    let prompts = read(set, text)?;
    check_fit(set, &prompts, engine)?;
    Ok(prompts)
}

fn read(set: &PromptSet, text: &TextModel) -> Result<Vec<Prompt>> {
    let questions = load_questions(&set.file, set.skip, set.take)?;
    Ok(text.prompts(&questions, &set.file)?)
}

/// Fails at the first prompt that does not fit the engine's cache.
pub fn check_fit(set: &PromptSet, prompts: &[Prompt], engine: &Engine) -> Result<()> {
    for prompt in prompts {
        engine.check_prompt(&prompt.ids).map_err(|source| Error::Prompt {
            file: set.file.clone(),
            id: prompt.id.clone(),
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Prompts with what they are called.
pub fn questions(prompts: &[Prompt]) -> impl Iterator<Item = (&[u32], String)> {
    prompts.iter().map(|prompt| (&prompt.ids[..], prompt.id.clone()))
}

/// In words, which of some prompts are among others; `None` if none is.
pub fn shared<'p>(
    prompts: impl Iterator<Item = (&'p [u32], String)>,
    others: impl Iterator<Item = (&'p [u32], String)>,
) -> Option<String> {
    let others: HashMap<&[u32], String> = others.collect();
    let shared = prompts.filter_map(|(ids, name)| Some((name, others.get(ids)?.clone())));
    list(&shared.collect::<Vec<_>>())
}

/// Prompts by both of their names.
fn list(shared: &[(String, String)]) -> Option<String> {
    let named = shared.iter().take(MOST_NAMED).map(|(name, other)| {
        if name == other {
            format!("question {name}")
        } else {
            format!("question {name} (there question {other})")
        }
    });
    let mut named: Vec<String> = named.collect();
    if shared.len() > MOST_NAMED {
        named.push("..".to_owned());
    }
    let prompts = if shared.len() == 1 { "prompt" } else { "prompts" };
    (!shared.is_empty()).then(|| format!("{} {prompts} ({})", shared.len(), named.join(", ")))
}
