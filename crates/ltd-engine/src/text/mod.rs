//! From text to tokens and back: tokenizer, chat template, question files.

mod chat;
mod error;
mod guard;
mod jinja;
mod questions;
mod stop_tokens;
mod tokenizer;
mod tokenizer_config;

pub use chat::{BuiltinTemplate, ChatConfig, Day};
pub use error::TextError;
pub use questions::{Prompt, Question, load_questions};
pub use stop_tokens::{StopToken, StopTokenName};
pub use tokenizer::TextModel;
