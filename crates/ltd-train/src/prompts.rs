//! The prompts of a run, as tokens.

use ltd_engine::Engine;
use ltd_engine::text::{Prompt, TextModel, load_questions};

use crate::config::{PromptSet, PromptSets};
use crate::{Error, Result};

/// All prompts of a run.
#[derive(Debug)]
pub(crate) struct Prompts {
    pub(crate) train: Vec<Prompt>,
    pub(crate) validation: Vec<Prompt>,
    pub(crate) evaluation: Vec<Prompt>,
}

impl Prompts {
    /// Reads and encodes all sets; every prompt must fit the engine's cache.
    pub(crate) fn load(sets: &PromptSets, text: &TextModel, engine: &Engine) -> Result<Self> {
        let load = |set: &PromptSet| load_prompts(set, text, engine);
        Ok(Self {
            train: load(&sets.train)?,
            validation: load(&sets.validation)?,
            evaluation: load(&sets.evaluation)?,
        })
    }
}

/// Reads and encodes a set; every prompt must fit the engine's cache.
pub fn load_prompts(set: &PromptSet, text: &TextModel, engine: &Engine) -> Result<Vec<Prompt>> {
    let questions = load_questions(&set.file, set.skip, set.take)?;
    let prompts = text.prompts(&questions, &set.file)?;
    for prompt in &prompts {
        engine.check_prompt(&prompt.ids).map_err(|source| Error::Prompt {
            file: set.file.clone(),
            id: prompt.id.clone(),
            source: Box::new(source),
        })?;
    }
    Ok(prompts)
}
