//! Tokens that end an answer.

use std::fmt;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::TextError;
use super::chat::ChatTemplate;
use super::chat_config::StopTokenName;
use super::tokenizer_config::TokenizerConfig;

/// A token that ends an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopToken {
    /// Its id.
    pub id: u32,
    /// Its text, if there is a tokenizer that knows it.
    pub text: Option<String>,
    /// Where it is named: files of the target's folder, `chat template`, or `chat.stop_tokens`.
    pub origins: Vec<&'static str>,
}

/// Its text, else its id.
impl fmt::Display for StopToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.text {
            Some(text) => f.pad(text),
            None => f.pad(&self.id.to_string()),
        }
    }
}

/// The stop tokens of a target: those that `names` has, else all that its files, its tokenizer and
/// its chat template name.
pub(super) fn find(
    folder: &Path,
    names: Option<&[StopTokenName]>,
    tokenizer: Option<&Tokenizer>,
    config: &TokenizerConfig,
    template: Option<&ChatTemplate>,
) -> Result<Vec<StopToken>, TextError> {
    let mut found = Found { tokenizer, tokens: Vec::new() };
    let unknown = |problem: String| TextError::StopToken { path: folder.to_owned(), problem };
    if let Some(names) = names {
        for name in names {
            let id = match name {
                StopTokenName::Id(id) => *id,
                StopTokenName::Text(text) => found.id(text).ok_or_else(|| {
                    let problem = match tokenizer {
                        Some(_) => "is unknown to its tokenizer",
                        None => "can only be named by its id, as there is no tokenizer.json",
                    };
                    unknown(format!("stop token `{text}` {problem}"))
                })?,
            };
            found.add(id, "chat.stop_tokens");
        }
        return Ok(found.tokens);
    }
    for file in ["generation_config.json", "config.json"] {
        for id in eos_token_ids(&folder.join(file))? {
            found.add(id, file);
        }
    }
    if tokenizer.is_some() {
        for (file, text) in config.eos_tokens() {
            let id = found.id(&text).ok_or_else(|| {
                unknown(format!("eos_token `{text}` of {file} is unknown to its tokenizer: {NAME_OTHERS}"))
            })?;
            found.add(id, file);
        }
    }
    if let (Some(template), Some(tokenizer)) = (template, tokenizer) {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|token| token.special).map(|token| token.content.as_str());
        if let Some(id) = template.end_of_turn(special).and_then(|text| found.id(text)) {
            found.add(id, "chat template");
        }
    }
    if found.tokens.is_empty() {
        return Err(TextError::NoStopToken { folder: folder.to_owned() });
    }
    Ok(found.tokens)
}

const NAME_OTHERS: &str = "chat.stop_tokens (ltd-decode: --stop-token) names others";

struct Found<'t> {
    tokenizer: Option<&'t Tokenizer>,
    tokens: Vec<StopToken>,
}

impl Found<'_> {
    fn id(&self, text: &str) -> Option<u32> {
        self.tokenizer.and_then(|tokenizer| tokenizer.token_to_id(text))
    }

    fn add(&mut self, id: u32, origin: &'static str) {
        if let Some(known) = self.tokens.iter_mut().find(|token| token.id == id) {
            if !known.origins.contains(&origin) {
                known.origins.push(origin);
            }
            return;
        }
        let text = self.tokenizer.and_then(|tokenizer| tokenizer.id_to_token(id));
        self.tokens.push(StopToken { id, text, origins: vec![origin] });
    }
}

/// `eos_token_id` of a model's file; null is none.
fn eos_token_ids(path: &Path) -> Result<Vec<u32>, TextError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = ltd_policy::read_text(path).map_err(TextError::io(path))?;
    let config: Value =
        serde_json::from_str(&text).map_err(|source| TextError::Json { path: path.to_owned(), source })?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let value = &config["eos_token_id"];
    let ids = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| TextError::StopToken {
        path: path.to_owned(),
        problem: format!("eos_token_id is {value}, expected a token's id or a list of them: {NAME_OTHERS}"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{ChatConfig, TextModel};
    use super::*;

    /// A target of twelve words, some of them special.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let words =
            ["w0", "w1", "</s>", "<|end|>", "<|user|>", "<|ends|>", "w6", "w7", "w8", "w9", "w10", "w11"];
        let vocabulary: serde_json::Map<String, Value> =
            words.into_iter().zip(0u32..).map(|(word, id)| (word.to_owned(), id.into())).collect();
        let added = |word: usize, special: bool| {
            serde_json::json!({"id": word, "content": words[word], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special})
        };
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "added_tokens": [added(2, true), added(3, true), added(4, true), added(5, false)],
            "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        folder
    }

    fn load(files: &[(&str, &str)], names: Option<&str>) -> Result<TextModel, String> {
        let stop_tokens = names.map(|names| serde_json::from_str(names).expect("names"));
        let chat = ChatConfig { stop_tokens, ..ChatConfig::default() };
        TextModel::with_chat(folder(files).path(), &chat).map_err(|error| error.to_string())
    }

    const CHAT: &str = "{% for m in messages %}<|user|>{{ m.content }}\n<|end|>{% endfor %}";

    #[test]
    fn stop_tokens_are_all_that_are_named() {
        let generation = ("generation_config.json", r#"{"eos_token_id": [7, 9]}"#);
        let config = ("config.json", r#"{"eos_token_id": 9}"#);
        let tokenizer = ("tokenizer_config.json", r#"{"eos_token": {"content": "</s>"}}"#);
        let map = ("special_tokens_map.json", r#"{"eos_token": "w6"}"#);
        let template = ("chat_template.jinja", CHAT);
        let text = load(&[generation, config, tokenizer, map, template], None).expect("a text model");
        let found: Vec<_> = text
            .stop_tokens()
            .iter()
            .map(|token| format!("{} {token} {}", token.id, token.origins.join(", ")))
            .collect();
        let expected = [
            "7 w7 generation_config.json",
            "9 w9 generation_config.json, config.json",
            "2 </s> tokenizer_config.json",
            "6 w6 special_tokens_map.json",
            "3 <|end|> chat template",
        ];
        assert_eq!(found, expected);
        assert_eq!(text.eos(), [7, 9, 2, 6, 3]);
        for (files, expected) in [
            (&[config][..], &[9][..]),
            (&[tokenizer, ("config.json", r#"{"eos_token_id": null}"#)], &[2]),
            (&[template, ("config.json", "{}")], &[3]),
            (&[("config.json", "\u{feff}{\"eos_token_id\": [4]}")], &[4]),
            // No special token.
            (&[config, ("chat_template.jinja", "{{ messages[-1].content }}<|ends|>")], &[9]),
        ] {
            assert_eq!(load(files, None).expect("a text model").eos(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_configuration_names_others() {
        let config = ("config.json", r#"{"eos_token_id": -1}"#);
        let text = load(&[config], Some(r#"["w6", 7, 6]"#)).expect("a text model");
        assert_eq!(text.eos(), [6, 7]);
        assert_eq!(text.stop_tokens()[0].origins, ["chat.stop_tokens"]);
        assert!(load(&[config], Some("[]")).expect("only the length ends an answer").eos().is_empty());
        let error = load(&[], Some(r#"["<|x|>"]"#)).err().expect("refused");
        assert!(error.ends_with(": stop token `<|x|>` is unknown to its tokenizer"), "{error}");
        for (text, problem) in [
            ("-1", "invalid type: integer `-1`, expected a token's id or its text"),
            ("4294967296", "invalid value: integer `4294967296`"),
            ("null", "invalid type: null, expected a token's id or its text"),
            ("1.5", "floating point `1.5`, expected a token's id or its text"),
        ] {
            let error = serde_json::from_str::<StopTokenName>(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{error}");
        }
        for (text, name) in [("2", StopTokenName::Id(2)), ("</s>", StopTokenName::Text("</s>".to_owned()))] {
            assert_eq!(text.parse::<StopTokenName>().expect("a name"), name);
        }
        for text in ["-1", "1.5", "4294967296"] {
            assert_eq!(text.parse::<StopTokenName>().expect_err("no id"), "is not a token id");
        }
    }

    #[test]
    fn what_is_no_token_is_named_with_its_file() {
        for (value, found) in [
            ("-1", "-1"),
            ("[2, null]", "[2,null]"),
            ("4294967296", "4294967296"),
            ("\"</s>\"", "\"</s>\""),
            ("1.0", "1.0"),
        ] {
            let config = format!("{{\"eos_token_id\": {value}}}");
            let error = load(&[("generation_config.json", &config)], None).err().expect("refused");
            let expected = format!(
                "/generation_config.json: eos_token_id is {found}, expected a token's id or a list of them: \
                 chat.stop_tokens (ltd-decode: --stop-token) names others"
            );
            assert!(error.ends_with(&expected), "{error}");
        }
        let error = load(&[("config.json", "{}")], None).err().expect("refused");
        assert!(error.contains(": no token that ends an answer: expected `eos_token_id` in gen"), "{error}");
        let error = TextModel::load(Path::new("no-such-folder")).err().expect("refused").to_string();
        assert_eq!(error, "no-such-folder: no such folder");
    }

    #[test]
    fn without_a_tokenizer_tokens_are_named_by_their_ids() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": 2}"#).expect("written");
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#)
            .expect("written");
        let with = |name: StopTokenName| {
            let chat = ChatConfig { stop_tokens: Some(vec![name]), ..ChatConfig::default() };
            TextModel::with_chat(folder.path(), &chat).map_err(|error| error.to_string())
        };
        let text = TextModel::load(folder.path()).expect("a text model");
        assert_eq!((text.eos(), text.stop_tokens()[0].to_string().as_str()), (&[2][..], "2"));
        assert_eq!(with(StopTokenName::Id(7)).expect("a text model").eos(), [7]);
        let error = with(StopTokenName::Text("</s>".to_owned())).err().expect("refused");
        assert!(error.contains("stop token `</s>` can only be named by its id"), "{error}");
    }
}
