//! A target's tokenizer, chat template and end-of-sequence tokens.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::chat::{ChatConfig, ChatTemplate};
use super::guard::guard;
use super::{Prompt, Question, TextError};

/// How a target reads and writes text. A folder without `tokenizer.json` works with token ids only.
pub struct TextModel {
    folder: PathBuf,
    tokenizer: Option<(Tokenizer, ChatTemplate)>,
    eos: Vec<u32>,
}

/// `eos_token_id` of `generation_config.json` or `config.json`.
#[derive(Deserialize)]
struct EosConfig {
    eos_token_id: Option<EosField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EosField {
    One(u32),
    Many(Vec<u32>),
}

impl TextModel {
    /// Reads the tokenizer, the chat template and the end-of-sequence tokens of a target folder.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        Self::with_chat(folder, &ChatConfig::default())
    }

    /// [`TextModel::load`], with another chat template or other settings of it.
    pub fn with_chat(folder: &Path, chat: &ChatConfig) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(TextError::io(&path))?;
            let load = || {
                // The library panics at what is no JSON.
                serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
                Tokenizer::from_str(&text)
            };
            let tokenizer =
                guard(load).map_err(|source| TextError::Tokenizer { path: path.clone(), source })?;
            Some((tokenizer, ChatTemplate::load(folder, chat)?))
        } else {
            None
        };
        Ok(Self { folder: folder.to_owned(), tokenizer, eos: eos_tokens(folder)? })
    }

    /// The target folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tokens that end an answer.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether text can be read at all.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// Tokens that the tokenizer knows, special ones included; nothing without a tokenizer.
    pub fn size(&self) -> Option<usize> {
        self.tokenizer.as_ref().map(|(tokenizer, _)| tokenizer.get_vocab_size(true))
    }

    /// What a folder without `tokenizer.json` lacks, and how to get it.
    pub fn missing_tokenizer(&self) -> String {
        let folder = self.folder.display();
        let missing = format!("{folder} has no tokenizer.json");
        if !self.folder.join("tokenizer.model").is_file() {
            return missing;
        }
        format!(
            "{missing}: convert its tokenizer.model with transformers and sentencepiece: python3 -c \"from transformers import \
             AutoTokenizer as T; T.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    }

    /// The tokens of one user message in the chat template; `None` without a tokenizer.
    pub fn encode_chat(&self, message: &str) -> Result<Option<Vec<u32>>, TextError> {
        let Some((tokenizer, template)) = &self.tokenizer else { return Ok(None) };
        let text = template
            .render(message)
            .map_err(|source| TextError::ChatTemplate { folder: self.folder.clone(), source })?;
        let encoding = guard(|| tokenizer.encode(text, !template.writes_special_tokens()))
            .map_err(|source| TextError::Tokenizer { path: self.folder.join("tokenizer.json"), source })?;
        Ok(Some(encoding.get_ids().to_vec()))
    }

    /// The text of tokens, special ones left out; without a tokenizer, the ids in words.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        match &self.tokenizer {
            Some((tokenizer, _)) => guard(|| tokenizer.decode(ids, true))
                .map_err(|source| TextError::Tokenizer { path: self.folder.join("tokenizer.json"), source }),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        }
    }

    /// Turns questions of a file into prompts: the first turn of each, in the chat template.
    pub fn prompts(&self, questions: &[Question], file: &Path) -> Result<Vec<Prompt>, TextError> {
        let prompts = questions.iter().map(|question| {
            let ids = match (&question.token_ids, question.turns.first()) {
                (Some(ids), _) => Some(ids.clone()),
                (None, Some(turn)) => self.encode_chat(turn)?,
                (None, None) => None,
            };
            let id = question.id.clone();
            let needs_tokenizer = || TextError::NeedsTokenizer {
                path: file.to_owned(),
                id: id.clone(),
                hint: self.missing_tokenizer(),
            };
            Ok(Prompt { ids: ids.ok_or_else(needs_tokenizer)?, id, category: question.category.clone() })
        });
        prompts.collect()
    }
}

fn eos_tokens(folder: &Path) -> Result<Vec<u32>, TextError> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(TextError::io(&path))?;
        let config: EosConfig =
            serde_json::from_str(&text).map_err(|source| TextError::Json { path, source })?;
        match config.eos_token_id {
            Some(EosField::One(token)) => return Ok(vec![token]),
            Some(EosField::Many(tokens)) if !tokens.is_empty() => return Ok(tokens),
            _ => {}
        }
    }
    Err(TextError::NoEos { folder: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_sequence_tokens_come_from_the_generation_config_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        assert!(matches!(eos_tokens(folder.path()), Err(TextError::NoEos { .. })));
        write("config.json", r#"{"eos_token_id": 2}"#);
        assert_eq!(eos_tokens(folder.path()).expect("tokens"), [2]);
        write("generation_config.json", r#"{"eos_token_id": [7, 9]}"#);
        assert_eq!(eos_tokens(folder.path()).expect("tokens"), [7, 9]);
        write("generation_config.json", "{}");
        assert_eq!(eos_tokens(folder.path()).expect("tokens"), [2]);
    }
}
