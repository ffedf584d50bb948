//! Chat templates as Hugging Face renders them.

use std::path::Path;

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::TextError;

/// How a message becomes a prompt, where the target's files leave a choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// A built-in template in place of the target's own, for targets that have none; null uses the target's.
    pub template: Option<BuiltinTemplate>,
    /// Whether the target thinks before it answers, for templates that ask (Qwen3's `enable_thinking`); null leaves it to
    /// the template.
    pub enable_thinking: Option<bool>,
}

/// Templates of models whose files have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuiltinTemplate {
    /// Vicuna 1.1 to 1.5: a system sentence, then `USER:` and `ASSISTANT:`.
    Vicuna,
}

impl BuiltinTemplate {
    fn source(self) -> &'static str {
        match self {
            Self::Vicuna => {
                "A chat between a curious user and an artificial intelligence assistant. \
                 The assistant gives helpful, detailed, and polite answers to the user's questions.\
                 {% for message in messages %} USER: {{ message.content }}{% endfor %} ASSISTANT:"
            }
        }
    }
}

impl std::str::FromStr for BuiltinTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vicuna" => Ok(Self::Vicuna),
            other => Err(format!("`{other}` is no built-in template: expected vicuna")),
        }
    }
}

/// A chat template with what it may name.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    variables: BTreeMap<&'static str, Value>,
    /// Whether the template writes the special tokens itself; else the tokenizer adds those that begin a text.
    writes_special_tokens: bool,
}

const TEMPLATE: &str = "chat";
/// Steps after which a template is given up: loops within loops could go on for years. Published ones take some hundred.
const MOST_STEPS: u64 = 5_000_000;

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<TemplateField>,
    bos_token: Option<TokenField>,
    eos_token: Option<TokenField>,
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateField {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A token, or a token with its properties.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenField {
    Text(String),
    Added { content: String },
}

impl TokenField {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl ChatTemplate {
    /// The template that `config` names, or that of a model folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json`.
    pub(crate) fn load(folder: &Path, config: &ChatConfig) -> Result<Self, TextError> {
        let mut variables = BTreeMap::new();
        if let Some(thinks) = config.enable_thinking {
            variables.insert("enable_thinking", Value::from(thinks));
        }
        if let Some(builtin) = config.template {
            return Self::new(folder, builtin.source().to_owned(), variables, false);
        }
        let template = read_template(folder, &mut variables)?;
        Self::new(folder, template, variables, true)
    }

    fn new(
        folder: &Path,
        template: String,
        variables: BTreeMap<&'static str, Value>,
        writes_special_tokens: bool,
    ) -> Result<Self, TextError> {
        let mut environment = hugging_face_environment();
        environment
            .add_template_owned(TEMPLATE, template)
            .map_err(|source| TextError::ChatTemplate { folder: folder.to_owned(), source })?;
        Ok(Self { environment, variables, writes_special_tokens })
    }

    /// Whether the template writes the special tokens itself; else the tokenizer adds those that begin a text.
    pub(crate) fn writes_special_tokens(&self) -> bool {
        self.writes_special_tokens
    }

    /// One user message, ready for the model's answer.
    pub(crate) fn render(&self, message: &str) -> Result<String, minijinja::Error> {
        let conversation = context! {
            messages => [context! { role => "user", content => message }],
            add_generation_prompt => true,
        };
        let variables = Value::from_serialize(&self.variables);
        self.environment.get_template(TEMPLATE)?.render(context! { ..conversation, ..variables })
    }
}

/// Reads the template of a model folder and the tokens that it may name.
fn read_template(folder: &Path, variables: &mut BTreeMap<&'static str, Value>) -> Result<String, TextError> {
    let path = folder.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&path).map_err(TextError::io(&path))?;
    let config: TokenizerConfig =
        serde_json::from_str(&text).map_err(|source| TextError::Json { path, source })?;
    let file = folder.join("chat_template.jinja");
    let template = if file.is_file() {
        Some(std::fs::read_to_string(&file).map_err(TextError::io(&file))?)
    } else {
        match config.chat_template {
            Some(TemplateField::One(template)) => Some(template),
            Some(TemplateField::Named(templates)) => {
                templates.into_iter().find(|named| named.name == "default").map(|named| named.template)
            }
            None => None,
        }
    };
    for (name, field) in [("bos_token", config.bos_token), ("eos_token", config.eos_token)] {
        variables.insert(name, field.map(TokenField::text).unwrap_or_default().into());
    }
    template.ok_or_else(|| TextError::NoChatTemplate { folder: folder.to_owned() })
}

/// The settings and functions that Hugging Face gives to templates.
fn hugging_face_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(MOST_STEPS));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str, file: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("it is written");
        if let Some(template) = file {
            std::fs::write(folder.path().join("chat_template.jinja"), template).expect("it is written");
        }
        folder
    }

    #[test]
    fn a_template_that_would_go_on_for_years_is_given_up() {
        let body = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let folder = folder("{}", Some(body));
        let template = ChatTemplate::load(folder.path(), &ChatConfig::default()).expect("a template");
        assert_eq!(template.render("hi").expect_err("given up").kind(), ErrorKind::OutOfFuel);
    }

    #[test]
    fn a_template_comes_from_the_config_from_its_default_entry_or_from_its_own_file() {
        let body =
            "{{ bos_token }}{% for m in messages %}\n{{ m['content'].strip() }}{% endfor %}{{ eos_token }}";
        let one =
            serde_json::json!({"chat_template": body, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
        let named = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": [
            {"name": "tool_use", "template": "no"}, {"name": "default", "template": body}]});
        let bare = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"});
        for (config, file) in [(one, None), (named, None), (bare, Some(body))] {
            let folder = folder(&config.to_string(), file);
            let template = ChatTemplate::load(folder.path(), &ChatConfig::default()).expect("a template");
            assert_eq!(template.render(" hi ").expect("it renders"), "<s>hi</s>");
        }
    }

    #[test]
    fn a_template_that_is_missing_malformed_or_refuses_is_an_error() {
        let missing = folder("{}", None);
        assert!(matches!(
            ChatTemplate::load(missing.path(), &ChatConfig::default()),
            Err(TextError::NoChatTemplate { .. })
        ));
        let malformed = folder(r#"{"chat_template": "{% for %}"}"#, None);
        assert!(matches!(
            ChatTemplate::load(malformed.path(), &ChatConfig::default()),
            Err(TextError::ChatTemplate { .. })
        ));
        let refusing = folder(r#"{"chat_template": "{{ raise_exception('system first') }}"}"#, None);
        let error = ChatTemplate::load(refusing.path(), &ChatConfig::default())
            .expect("it loads")
            .render("hi")
            .expect_err("it refuses");
        assert!(error.to_string().contains("system first"), "{error}");
    }

    /// What transformers renders for each family (`scripts/fixtures/chat.py`).
    #[derive(Deserialize)]
    struct Case {
        family: String,
        template: Option<String>,
        tokens: BTreeMap<String, String>,
        settings: ChatConfig,
        message: String,
        rendered: String,
    }

    #[test]
    fn every_familys_prompts_are_those_of_transformers() {
        let cases = include_str!("../../../../tests/fixtures/chat/cases.json");
        let cases: Vec<Case> = serde_json::from_str(cases).expect("the fixture");
        assert_eq!(cases.len(), 18);
        for case in cases {
            let config = serde_json::to_string(&case.tokens).expect("plain data");
            let folder = folder(&config, case.template.as_deref());
            let template = ChatTemplate::load(folder.path(), &case.settings).expect("a template");
            let rendered = template.render(&case.message).expect("it renders");
            assert_eq!(rendered, case.rendered, "{}", case.family);
        }
    }
}
