//! From text to tokens and back: tokenizer, chat template, question files.

mod bounds;
mod chat;
mod chat_config;
mod error;
mod guard;
mod jinja;
mod questions;
mod stop_tokens;
mod tokenizer;
mod tokenizer_config;

pub use chat_config::{BuiltinTemplate, ChatConfig, Day, StopTokenName};
pub use error::TextError;
pub use questions::{Prompt, Question, load_questions};
pub use stop_tokens::StopToken;
pub use tokenizer::TextModel;
