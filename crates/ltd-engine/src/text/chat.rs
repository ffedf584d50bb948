//! Chat templates as Hugging Face renders them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Value, context};
use time::OffsetDateTime;

use super::TextError;
use super::chat_config::{ChatConfig, Day};
use super::jinja::Template;
use super::tokenizer_config::{CONFIG_FILE, TokenizerConfig};

/// A chat template with what it may name.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    template: Template,
    variables: BTreeMap<String, Value>,
    /// The file, for messages.
    origin: PathBuf,
    /// Whether the template writes the special tokens itself; else the tokenizer adds those that
    /// begin a text.
    writes_special_tokens: bool,
}

impl ChatTemplate {
    /// The template that `config` names, or that of a model folder: `chat_template.jinja`, else
    /// `chat_template` of `tokenizer_config.json`.
    pub(super) fn load(
        folder: &Path,
        config: &ChatConfig,
        tokenizer: &TokenizerConfig,
    ) -> Result<Self, TextError> {
        let mut variables: BTreeMap<String, Value> = tokenizer
            .named_tokens()
            .into_iter()
            .map(|(name, token)| (name, Value::from(token.content)))
            .collect();
        if let Some(thinks) = config.enable_thinking {
            variables.insert("enable_thinking".to_owned(), Value::from(thinks));
        }
        let file = folder.join("chat_template.jinja");
        let (source, origin) = if let Some(builtin) = config.template {
            (builtin.source().to_owned(), PathBuf::from(format!("built-in {builtin:?}")))
        } else if file.is_file() {
            (ltd_policy::read_text(&file).map_err(TextError::io(&file))?, file)
        } else {
            let source = tokenizer.chat_template()?;
            let missing = || TextError::NoChatTemplate { folder: folder.to_owned() };
            (source.ok_or_else(missing)?, folder.join(CONFIG_FILE))
        };
        let now = match config.date {
            Some(Day(date)) => date.midnight().assume_utc(),
            None => OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc()),
        };
        let template = Template::compile(&source, now)
            .map_err(|source| TextError::ChatTemplate { path: origin.clone(), source })?;
        Ok(Self { template, variables, origin, writes_special_tokens: config.template.is_none() })
    }

    /// Whether the template writes the special tokens itself; else the tokenizer adds those that
    /// begin a text.
    pub(super) fn writes_special_tokens(&self) -> bool {
        self.writes_special_tokens
    }

    /// User messages with the answers to all but the last, ready for the model's next answer.
    pub(super) fn render(&self, messages: &[&str], answers: &[&str]) -> Result<String, TextError> {
        let answers = answers.iter().map(Some).chain(std::iter::repeat(None));
        let turns = messages.iter().zip(answers).flat_map(|(&message, answer)| {
            [Some(("user", message)), answer.map(|&answer| ("assistant", answer))].into_iter().flatten()
        });
        self.render_messages(&turns.collect::<Vec<_>>(), true)
            .map_err(|source| TextError::ChatTemplate { path: self.origin.clone(), source })
    }

    /// Which of the `special` tokens the template writes after an answer; none if it cannot be
    /// told.
    pub(super) fn end_of_turn<'s>(&self, special: impl Iterator<Item = &'s str>) -> Option<&'s str> {
        let answer = "Yes";
        let text = self.render_messages(&[("user", "Hello"), ("assistant", answer)], false).ok()?;
        let (_, after) = text.rsplit_once(answer)?;
        special.filter(|token| after.trim_start().starts_with(token)).max_by_key(|token| token.len())
    }

    /// The variables are those that transformers passes: tools and documents are there, and none.
    fn render_messages(
        &self,
        messages: &[(&str, &str)],
        add_generation_prompt: bool,
    ) -> Result<String, minijinja::Error> {
        let messages = messages.iter().map(|(role, content)| context! { role, content });
        let conversation = context! {
            messages => messages.collect::<Vec<_>>(),
            tools => (),
            documents => (),
            add_generation_prompt,
        };
        self.template.render(context! { ..conversation, ..Value::from_serialize(&self.variables) })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn folder(config: &str, file: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(CONFIG_FILE), config).expect("it is written");
        if let Some(template) = file {
            std::fs::write(folder.path().join("chat_template.jinja"), template).expect("it is written");
        }
        folder
    }

    fn load(folder: &Path, config: &ChatConfig) -> Result<ChatTemplate, TextError> {
        ChatTemplate::load(folder, config, &TokenizerConfig::read(folder)?)
    }

    #[test]
    fn a_panic_of_the_library_is_an_error_of_the_template() {
        let template = "{% for m in messages %}{% with x = 1 %}{% break %}{% endwith %}{% endfor %}";
        let folder = folder("{}", Some(template));
        let loaded = load(folder.path(), &ChatConfig::default()).expect("it compiles");
        let error = loaded.render(&["hi"], &[]).expect_err("what breaks is no loop").to_string();
        assert!(error.contains("it makes the template library panic: "), "{error}");
    }

    #[test]
    fn templates_beyond_what_the_library_counts_are_refused() {
        let long = |template: String| {
            let folder = folder("{}", Some(&template));
            load(folder.path(), &ChatConfig::default()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(long("x\n".repeat(60_000)), Ok(()));
        for (template, problem) in [
            ("x\n".repeat(70_000), "has 70000 lines, must be at most 65000"),
            ("x".repeat(70_000), "has 70000 bytes in a line, must be at most 65000"),
            ("{{ y }}".repeat(20_000), "has 140000 bytes in a line"),
        ] {
            let error = long(template).expect_err("too long");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_template_comes_from_the_config_from_its_default_entry_or_from_its_own_file() {
        let body = "{{ bos_token }}{% for m in messages %}\n{{ m['content'].strip() }}{% endfor %}{{ eos_token }}\
                    {{ pad_token is defined }}{{ image_token }}";
        let object = serde_json::json!({"__type": "AddedToken", "content": "</s>", "lstrip": true});
        let tokens = serde_json::json!({"bos_token": "<s>", "eos_token": object, "pad_token": null,
            "image_token": "<i>", "add_bos_token": true});
        let with = |template: serde_json::Value| {
            let mut config = tokens.clone();
            config["chat_template"] = template;
            config.to_string()
        };
        let tool_use = serde_json::json!({"name": "tool_use", "template": "no"});
        let default = serde_json::json!({"name": "default", "template": body});
        for (config, file) in [
            (with(body.into()), None),
            (with(serde_json::json!([tool_use, default])), None),
            (with(serde_json::json!({"tool_use": "no", "default": body})), None),
            (with("not this".into()), Some(body)),
            (tokens.to_string(), Some(body)),
            (format!("\u{feff}{}", with(body.into())), None),
            (tokens.to_string(), Some(&format!("\u{feff}{body}") as &str)),
        ] {
            let folder = folder(&config, file);
            let template = load(folder.path(), &ChatConfig::default()).expect("a template");
            assert_eq!(template.render(&[" hi "], &[]).expect("it renders"), "<s>hi</s>False<i>");
        }
    }

    #[test]
    fn special_tokens_come_from_the_older_file_too() {
        let body = "{{ bos_token }}{{ eos_token }}{{ unk_token }}";
        let map = r#"{"bos_token": "<map>", "eos_token": {"content": "</map>"}, "unk_token": "<unk>"}"#;
        for (decoder, expected) in
            [("", "<map></map><unk>"), (r#", "added_tokens_decoder": {}"#, "<s></map><unk>")]
        {
            let folder = folder(&format!(r#"{{"bos_token": "<s>"{decoder}}}"#), Some(body));
            std::fs::write(folder.path().join("special_tokens_map.json"), map).expect("it is written");
            let template = load(folder.path(), &ChatConfig::default()).expect("a template");
            assert_eq!(template.render(&[""], &[]).expect("it renders"), expected);
        }
    }

    #[test]
    fn a_template_that_is_missing_malformed_or_refuses_is_an_error_that_names_file_and_construct() {
        let refusal = |config: &str, file: Option<&str>| {
            let folder = folder(config, file);
            let rendered = load(folder.path(), &ChatConfig::default())
                .and_then(|template| template.render(&["hi"], &[]));
            rendered.expect_err(config).to_string()
        };
        let template = |text: &str| refusal("{}", Some(text));
        assert!(refusal("{}", None).contains(": no chat template: expected `chat_template`"));
        for (config, problem) in [
            (
                r#"{"chat_template": [{"name": "rag", "template": ""}]}"#,
                "no `default` among its templates: rag",
            ),
            (r#"{"chat_template": [{"name": "rag"}]}"#, "each of a list needs a name and a template"),
            (r#"{"chat_template": 7}"#, "chat_template is 7, expected text"),
            ("{", "EOF while parsing"),
        ] {
            let message = refusal(config, None);
            assert!(message.contains("/tokenizer_config.json: ") && message.contains(problem), "{message}");
        }
        for (text, problem) in [
            ("{% for %}", "syntax error"),
            ("\n{{ raise_exception('system first') }}", "system first (in chat_template:2)"),
            ("{{ messages.nope.nope }}", "undefined value"),
            ("{{ 'a'.encode() }}", "string has no method named encode"),
            ("{{ 'a' | nope }}", "filter nope is unknown"),
            ("{{ nope() }}", "nope is unknown"),
            ("{% trans %}a{% endtrans %}", "unknown statement trans"),
            ("{{ strftime_now('%w') }}", "strftime_now('%w'): %w is not supported"),
            ("{{ strftime_now('%Q') }}", "strftime_now('%Q'): invalid component name"),
            ("{{ missing | tojson }}", "tojson: a value of type undefined"),
            ("{{ 1 }}\n{{ messages[3:0:-1] }}", "backwards to a given end are not supported (line 2)"),
            ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "recursion"),
            ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let message = template(text);
            assert!(message.contains("/chat_template.jinja: chat template: "), "{message}");
            assert!(message.contains(problem), "{message}");
        }
    }

    /// What transformers renders for each family (`scripts/fixtures/chat.py`).
    #[derive(Deserialize)]
    struct Case {
        family: String,
        template: Option<String>,
        tokens: BTreeMap<String, String>,
        settings: ChatConfig,
        end: String,
        prompts: Vec<(String, String)>,
        answered: String,
    }

    #[test]
    fn every_familys_prompts_are_those_of_transformers() {
        let cases = include_str!("../../../../tests/fixtures/chat/cases.json");
        let cases: Vec<Case> = serde_json::from_str(cases).expect("the fixture");
        assert_eq!(cases.len(), 31);
        for case in cases {
            let config = serde_json::to_string(&case.tokens).expect("plain data");
            let folder = folder(&config, case.template.as_deref());
            let template = load(folder.path(), &case.settings).expect("a template");
            for (message, rendered) in &case.prompts {
                assert_eq!(
                    template.render(&[message], &[]).expect("it renders"),
                    *rendered,
                    "{}",
                    case.family
                );
            }
            let answered = template.render_messages(&[("user", "Hello"), ("assistant", "Yes")], false);
            assert_eq!(answered.expect("it renders"), case.answered, "{}", case.family);
            // Some of the others begin as the right one does.
            let others = ["<", "<s>", "<|im", "<|im_start|>", "[INST]"];
            let special = others.into_iter().chain([case.end.as_str()]);
            assert_eq!(template.end_of_turn(special), Some(case.end.as_str()), "{}", case.family);
            assert_eq!(template.end_of_turn(["<s>", "[INST]"].into_iter()), None, "{}", case.family);
        }
    }

    #[test]
    fn a_template_without_a_turn_of_the_assistant_has_no_end_of_turn() {
        for body in
            ["{{ messages[0].content }}</s>", "{{ raise_exception('no') }}", "{{ messages[1].content }}."]
        {
            let folder = folder("{}", Some(body));
            let template = load(folder.path(), &ChatConfig::default()).expect("a template");
            assert_eq!(template.end_of_turn(["</s>"].into_iter()), None, "{body}");
        }
    }

    #[test]
    fn a_template_is_told_the_day() {
        let folder = folder("{}", Some("{{ strftime_now('%d %b %Y|%A|%B %-d|%j|%H:%M|%%') }}"));
        let date = Day::try_from("2026-02-03".to_owned()).expect("a day");
        let told = |date| {
            let config = ChatConfig { date, ..ChatConfig::default() };
            load(folder.path(), &config).and_then(|template| template.render(&[""], &[])).expect("it renders")
        };
        assert_eq!(told(Some(date)), "03 Feb 2026|Tuesday|February 3|034|00:00|%");
        let year = OffsetDateTime::now_utc().year();
        assert!((year - 1..=year + 1).any(|year| told(None).contains(&format!(" {year}|"))));
        assert_eq!(String::from(date), "2026-02-03");
        for wrong in ["2026-2-30", "today", "26-01-01", "2026-01", "2026-01-01-01", "2026-13-01"] {
            let problem = Day::try_from(wrong.to_owned()).expect_err(wrong);
            assert!(problem.contains("expected one such as 2026-01-31"), "{problem}");
        }
    }
}
