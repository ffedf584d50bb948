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
    /// There is no such folder.
    #[error("{}: no such folder", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
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
    #[error("{}: chat template: {source}", path.display())]
    ChatTemplate {
        /// The file that the template is in.
        path: PathBuf,
        /// What the template engine says.
        source: minijinja::Error,
    },
    /// A `tokenizer_config.json` holds something else than expected.
    #[error("{}: {problem}", path.display())]
    TokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else than a token is named where an answer is to end.
    #[error("{}: {problem}", path.display())]
    StopToken {
        /// The file or the model folder.
        path: PathBuf,
        /// What is named there, and what would be right.
        problem: String,
    },
    /// No stop token is named.
    #[error(
        "{}: no token that ends an answer: expected `eos_token_id` in generation_config.json or config.json, \
         `eos_token` in tokenizer_config.json or special_tokens_map.json, or a chat template that writes a special \
         token after an answer; chat.stop_tokens (ltd-decode: --stop-token) names tokens in their place",
        folder.display()
    )]
    NoStopToken {
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
