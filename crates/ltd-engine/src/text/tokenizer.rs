//! A target's tokenizer, chat template and stop tokens.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokenizers::{AddedToken, Tokenizer};

use super::chat::ChatTemplate;
use super::chat_config::ChatConfig;
use super::guard::guard;
use super::tokenizer_config::{CONFIG_FILE, SPECIAL_TOKENS_FILE, TokenizerConfig};
use super::{Prompt, Question, StopToken, TextError, bounds, stop_tokens};

/// How a target reads and writes text. A folder without `tokenizer.json` works with token ids only,
/// one without a chat template too.
pub struct TextModel {
    folder: PathBuf,
    chat: ChatConfig,
    config: TokenizerConfig,
    tokenizer: Option<Tokenizer>,
    /// None if it cannot be used: that is an error when a message is to be put into it.
    template: Option<ChatTemplate>,
    stop_tokens: Vec<StopToken>,
    eos: Vec<u32>,
}

impl TextModel {
    /// Reads the tokenizer, the chat template and the stop tokens of a target folder.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        Self::with_chat(folder, &ChatConfig::default())
    }

    /// [`TextModel::load`], with another chat template or other settings of it.
    pub fn with_chat(folder: &Path, chat: &ChatConfig) -> Result<Self, TextError> {
        if !folder.is_dir() {
            return Err(TextError::NoFolder { folder: folder.to_owned() });
        }
        let config = TokenizerConfig::read(folder)?;
        let tokenizer = load_tokenizer(folder, &config)?;
        let template = ChatTemplate::load(folder, chat, &config).ok();
        let stop_tokens = stop_tokens::find(
            folder,
            chat.stop_tokens.as_deref(),
            tokenizer.as_ref(),
            &config,
            template.as_ref(),
        )?;
        let eos = stop_tokens.iter().map(|token| token.id).collect();
        Ok(Self {
            folder: folder.to_owned(),
            chat: chat.clone(),
            config,
            tokenizer,
            template,
            stop_tokens,
            eos,
        })
    }

    /// The target folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tokens that end an answer.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Tokens that end an answer, with where they are named.
    pub fn stop_tokens(&self) -> &[StopToken] {
        &self.stop_tokens
    }

    /// Whether text can be read at all.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The largest id of the tokenizer, special tokens included; nothing without a tokenizer.
    pub fn largest_token(&self) -> Option<u32> {
        self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.get_vocab(true).into_values().max())
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
        self.encode_conversation(&[message], &[])
    }

    /// The tokens of a conversation in the chat template, ready for the answer to its last message:
    /// all but the last have theirs in `answers`. `None` without a tokenizer.
    pub fn encode_conversation(
        &self,
        messages: &[&str],
        answers: &[&str],
    ) -> Result<Option<Vec<u32>>, TextError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let unusable;
        let template = if let Some(template) = &self.template {
            template
        } else {
            // It says again why it cannot be used.
            unusable = ChatTemplate::load(&self.folder, &self.chat, &self.config)?;
            &unusable
        };
        let text = template.render(messages, answers)?;
        let encoding = guarded(|| tokenizer.encode(text, !template.writes_special_tokens()))
            .map_err(self.tokenizer_error())?;
        Ok(Some(encoding.get_ids().to_vec()))
    }

    /// The text of tokens, special ones left out; without a tokenizer, the ids in words.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        match &self.tokenizer {
            Some(tokenizer) => guarded(|| tokenizer.decode(ids, true)).map_err(self.tokenizer_error()),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        }
    }

    /// What each of some tokens adds to the text of those before it, to be shown. A character of
    /// several tokens comes with its last one. Where a token changes the text before it, it is told
    /// alone.
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<String>, TextError> {
        let mut said = String::new();
        let piece = |end: usize| {
            let text = self.decode(&ids[..end])?;
            // Half a character is shown as a replacement.
            if end < ids.len() && text.ends_with(char::REPLACEMENT_CHARACTER) {
                return Ok(String::new());
            }
            let piece = match text.strip_prefix(&said) {
                Some(piece) => piece.to_owned(),
                None => self.decode(&ids[end - 1..end])?,
            };
            said = text;
            Ok(piece)
        };
        (1..=ids.len()).map(piece).collect()
    }

    fn tokenizer_error(&self) -> impl FnOnce(tokenizers::Error) -> TextError + '_ {
        |source| TextError::Tokenizer { path: self.folder.join(TOKENIZER_FILE), source }
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

const TOKENIZER_FILE: &str = "tokenizer.json";

/// A call into the library, whose panic is an error like any other.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    guard(call)
        .unwrap_or_else(|message| Err(format!("it makes the tokenizers library panic: {message}").into()))
}

/// Reads `tokenizer.json` as transformers does: what it says of truncation and padding was meant
/// for training, and tokens that only `tokenizer_config.json` names are added.
fn load_tokenizer(folder: &Path, config: &TokenizerConfig) -> Result<Option<Tokenizer>, TextError> {
    let path = folder.join(TOKENIZER_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let text = ltd_policy::read_text(&path).map_err(TextError::io(&path))?;
    let load = || -> tokenizers::Result<Tokenizer> {
        // The library panics at what is no JSON, and aborts where memory ends.
        if let Some(problem) = bounds::problem(&text)? {
            return Err(problem.into());
        }
        let mut tokenizer = Tokenizer::from_str(&text)?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        let known: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let added = config.tokens_to_add(&known);
        if let Some(problem) = bounds::too_long(added.iter().map(|token| &*token.content)) {
            return Err(format!("{CONFIG_FILE} or {SPECIAL_TOKENS_FILE}: {problem}").into());
        }
        tokenizer.add_tokens(&added);
        Ok(tokenizer)
    };
    guarded(load).map(Some).map_err(|source| TextError::Tokenizer { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What transformers makes of messages (`scripts/fixtures/prompts.py`).
    #[derive(Deserialize)]
    struct Case {
        name: String,
        tokenizer: serde_json::Value,
        config: serde_json::Value,
        prompts: Vec<(String, Vec<u32>)>,
    }

    #[test]
    fn prompts_are_those_of_transformers_whatever_is_baked_into_the_tokenizer() {
        let cases = include_str!("../../../../tests/fixtures/chat/prompts.json");
        let cases: Vec<Case> = serde_json::from_str(cases).expect("the fixture");
        assert_eq!(cases.len(), 8);
        for case in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let write = |name: &str, text: String| {
                std::fs::write(folder.path().join(name), text).expect("it is written");
            };
            write(TOKENIZER_FILE, format!("\u{feff}{}", case.tokenizer));
            write("tokenizer_config.json", case.config.to_string());
            let text = TextModel::load(folder.path()).expect("a text model");
            for (message, ids) in case.prompts {
                let found = text.encode_chat(&message).expect("it is encoded").expect("a tokenizer");
                assert_eq!(found, ids, "{}: {message}", case.name);
            }
        }
    }

    #[test]
    fn a_conversation_goes_on_and_its_pieces_are_its_text() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/smollm2-135m-instruct");
        let text = TextModel::load(Path::new(folder)).expect("the default target");
        let encode = |messages: &[&str], answers: &[&str]| {
            text.encode_conversation(messages, answers).expect("it is encoded").expect("a tokenizer")
        };
        let first = encode(&["Say hé."], &[]);
        let second = encode(&["Say hé.", "Again: 😀"], &["hé!"]);
        assert!(second.starts_with(&first), "the first turn is what it was");
        let asked = text.decode(&second).expect("text");
        let hé = asked.find("hé!").expect("the answer is there");
        assert!(asked[hé..].contains("Again: 😀"), "{asked}");
        let pieces = text.pieces(&second).expect("pieces");
        assert_eq!((pieces.len(), pieces.concat()), (second.len(), asked));
        assert!(
            pieces.iter().any(|piece| piece.trim() == "😀"),
            "a character of several tokens is one piece"
        );
    }
}
