//! Chat templates as Hugging Face renders them.

use std::path::Path;

use minijinja::{Environment, ErrorKind, context};
use serde::Deserialize;

use super::TextError;

/// A model's chat template with the tokens that it may name.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const TEMPLATE: &str = "chat";

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
    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.
    pub(crate) fn load(folder: &Path) -> Result<Self, TextError> {
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
        let template = template.ok_or_else(|| TextError::NoChatTemplate { folder: folder.to_owned() })?;
        let mut environment = hugging_face_environment();
        environment
            .add_template_owned(TEMPLATE, template)
            .map_err(|source| TextError::ChatTemplate { folder: folder.to_owned(), source })?;
        let token = |field: Option<TokenField>| field.map(TokenField::text).unwrap_or_default();
        Ok(Self { environment, bos_token: token(config.bos_token), eos_token: token(config.eos_token) })
    }

    /// One user message, ready for the model's answer.
    pub(crate) fn render(&self, message: &str) -> Result<String, minijinja::Error> {
        self.environment.get_template(TEMPLATE)?.render(context! {
            messages => [context! { role => "user", content => message }],
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        })
    }
}

/// The settings and functions that Hugging Face gives to templates.
fn hugging_face_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
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
            let template = ChatTemplate::load(folder.path()).expect("a template");
            assert_eq!(template.render(" hi ").expect("it renders"), "<s>hi</s>");
        }
    }

    #[test]
    fn a_template_that_is_missing_malformed_or_refuses_is_an_error() {
        let missing = folder("{}", None);
        assert!(matches!(ChatTemplate::load(missing.path()), Err(TextError::NoChatTemplate { .. })));
        let malformed = folder(r#"{"chat_template": "{% for %}"}"#, None);
        assert!(matches!(ChatTemplate::load(malformed.path()), Err(TextError::ChatTemplate { .. })));
        let refusing = folder(r#"{"chat_template": "{{ raise_exception('system first') }}"}"#, None);
        let error =
            ChatTemplate::load(refusing.path()).expect("it loads").render("hi").expect_err("it refuses");
        assert!(error.to_string().contains("system first"), "{error}");
    }
}
