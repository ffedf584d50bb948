//! What goes with a `tokenizer.json`: `tokenizer_config.json` and `special_tokens_map.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;

pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// Both files of a folder; one that is not there says nothing.
#[derive(Default)]
pub(super) struct TokenizerConfig {
    path: PathBuf,
    config: Map<String, Value>,
    special_tokens: Map<String, Value>,
}

/// A token with its properties. What a file leaves out is as transformers has it.
#[derive(Deserialize)]
struct TokenWithProperties {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl TokenWithProperties {
    fn added(self, special: bool) -> AddedToken {
        let special = self.special.unwrap_or(special);
        AddedToken::from(self.content, special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!special))
    }
}

/// A special token, written as text or with its properties; nothing if it is neither.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(text) => Some(AddedToken::from(text.clone(), true)),
        Value::Object(_) => {
            let token: TokenWithProperties = serde_json::from_value(value.clone()).ok()?;
            Some(token.added(true).special(true))
        }
        _ => None,
    }
}

impl TokenizerConfig {
    pub(super) fn read(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join(CONFIG_FILE);
        Ok(Self {
            config: read_object(&path)?,
            special_tokens: read_object(&folder.join(SPECIAL_TOKENS_FILE))?,
            path,
        })
    }

    /// A template: `chat_template`, or the one of several that is called `default`.
    pub(super) fn chat_template(&self) -> Result<Option<String>, TextError> {
        let refused = |problem: String| TextError::TokenizerConfig { path: self.path.clone(), problem };
        let named: BTreeMap<&str, &str> = match self.config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(template)) => return Ok(Some(template.clone())),
            Some(Value::Array(templates)) => templates
                .iter()
                .map(|entry| Some((entry["name"].as_str()?, entry["template"].as_str()?)))
                .collect::<Option<_>>()
                .ok_or_else(|| {
                    refused("chat_template: each of a list needs a name and a template".to_owned())
                })?,
            Some(Value::Object(templates)) => templates
                .iter()
                .filter_map(|(name, template)| Some((name.as_str(), template.as_str()?)))
                .collect(),
            Some(other) => return Err(refused(format!("chat_template is {other}, expected text"))),
        };
        let missing = || {
            let names = named.keys().copied().collect::<Vec<_>>().join(", ");
            refused(format!("chat_template has no `default` among its templates: {names}"))
        };
        named.get("default").map(|template| Some((*template).to_owned())).ok_or_else(missing)
    }

    /// The special tokens by name (`bos_token`, ...), as a template sees them. As in transformers,
    /// what `special_tokens_map.json` says counts unless `added_tokens_decoder` is there.
    pub(super) fn named_tokens(&self) -> BTreeMap<String, AddedToken> {
        let newer = self.config.contains_key("added_tokens_decoder");
        let maps =
            if newer { [&self.special_tokens, &self.config] } else { [&self.config, &self.special_tokens] };
        let names = maps.into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
        names.filter_map(|(name, value)| Some((name.clone(), special_token(value)?))).collect()
    }

    /// What each of the files calls the token that ends a text.
    pub(super) fn eos_tokens(&self) -> impl Iterator<Item = (&'static str, String)> {
        [(CONFIG_FILE, &self.config), (SPECIAL_TOKENS_FILE, &self.special_tokens)]
            .into_iter()
            .filter_map(|(file, map)| Some((file, special_token(map.get("eos_token")?)?.content)))
    }

    /// Tokens that transformers adds to those that `tokenizer.json` adds, so that a text is divided
    /// at them: entries of `added_tokens_decoder` that differ from those, and what else is named as
    /// a special token.
    pub(super) fn tokens_to_add(&self, known: &[AddedToken]) -> Vec<AddedToken> {
        let decoder = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let mut numbered: Vec<(u32, AddedToken)> = decoder
            .into_iter()
            .flatten()
            .filter_map(|(id, value)| {
                let token: TokenWithProperties = serde_json::from_value(value.clone()).ok()?;
                Some((id.parse().ok()?, token.added(false)))
            })
            .filter(|(_, token)| !known.contains(token))
            .collect();
        numbered.sort_by_key(|(id, _)| *id);
        let mut tokens: Vec<AddedToken> = numbered.into_iter().map(|(_, token)| token).collect();
        let lists = ["extra_special_tokens", "additional_special_tokens"].into_iter();
        let listed = lists.filter_map(|name| self.config.get(name)).filter_map(Value::as_array).flatten();
        for token in self.named_tokens().into_values().chain(listed.filter_map(special_token)) {
            if known.iter().chain(&tokens).all(|known| known.content != token.content) {
                tokens.push(token);
            }
        }
        tokens
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>, TextError> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = ltd_policy::read_text(path).map_err(TextError::io(path))?;
    serde_json::from_str(&text).map_err(|source| TextError::Json { path: path.to_owned(), source })
}
