//! Everything that can be wrong with prompts.

use std::path::{Path, PathBuf};

/// A failure on the way from text to tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is not JSON of the expected form.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where parsing stopped.
        source: serde_json::Error,
    },
    /// The tokenizer cannot be loaded, or cannot encode.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// What the tokenizer says.
        source: tokenizers::Error,
    },
    /// A target folder has no chat template.
    #[error("{}: no chat template: expected `chat_template` in tokenizer_config.json, or chat_template.jinja, or a built-in one to be named (chat.template: vicuna)", folder.display())]
    NoChatTemplate {
        /// The folder.
        folder: PathBuf,
    },
    /// The chat template cannot be rendered.
    #[error("{}: chat template: {source}", folder.display())]
    ChatTemplate {
        /// The model folder.
        folder: PathBuf,
        /// What the template engine says.
        source: minijinja::Error,
    },
    /// No end-of-sequence token is named.
    #[error("{}: no end-of-sequence token: expected `eos_token_id` in generation_config.json or config.json", folder.display())]
    NoEos {
        /// The model folder.
        folder: PathBuf,
    },
    /// A line of a question file.
    #[error("{}:{line}: {problem}", path.display())]
    Question {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A question file, or the part asked for, is empty.
    #[error("{}: {problem}", path.display())]
    NoQuestions {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        problem: String,
    },
    /// A question in words, but no tokenizer to read it.
    #[error("{}: question {id} is text, but {hint}", path.display())]
    NeedsTokenizer {
        /// The question file.
        path: PathBuf,
        /// The question.
        id: String,
        /// What is missing, and how to get it.
        hint: String,
    },
}

impl TextError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
