//! From text to tokens and back: tokenizer, chat template, question files.

mod chat;
mod error;
mod guard;
mod questions;
mod tokenizer;

pub use chat::{BuiltinTemplate, ChatConfig};
pub use error::TextError;
pub use questions::{Prompt, Question, load_questions};
pub use tokenizer::TextModel;
