//! How messages become prompts and where answers end, as far as a configuration says.

use std::fmt;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use time::{Date, Month};

/// How a message becomes a prompt, where the target's files leave a choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// A built-in template in place of the target's own, for targets that have none; null uses the
    /// target's.
    pub template: Option<BuiltinTemplate>,
    /// Whether the target thinks before it answers, for templates that ask (Qwen3's
    /// `enable_thinking`); null leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// The day that the target is told, for templates that ask; null is today.
    pub date: Option<Day>,
    /// The tokens that end an answer, by id or text; of an empty list none does, only the length.
    /// Null takes all that the target's files and its template name.
    pub stop_tokens: Option<Vec<StopTokenName>>,
}

/// Templates of models whose files have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BuiltinTemplate {
    /// Vicuna 1.1 to 1.5: a system sentence, then `USER:` and `ASSISTANT:`.
    Vicuna,
}

impl BuiltinTemplate {
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Vicuna => {
                "A chat between a curious user and an artificial intelligence assistant. \
                 The assistant gives helpful, detailed, and polite answers to the user's questions.\
                 {% for message in messages %}{% if message.role == 'assistant' %} ASSISTANT: \
                 {{ message.content }}{{ eos_token }}{% else %} USER: {{ message.content }}{% endif %}{% endfor %}\
                 {% if add_generation_prompt %} ASSISTANT:{% endif %}"
            }
        }
    }
}

impl std::str::FromStr for BuiltinTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vicuna" => Ok(Self::Vicuna),
            other => Err(format!("unknown built-in template `{other}`; expected vicuna")),
        }
    }
}

/// A day, written as `2026-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = "^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}$"))
)]
#[serde(try_from = "String", into = "String")]
pub struct Day(pub(super) Date);

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('-').collect();
        let date = match parts[..] {
            [year, month, day] if year.len() == 4 => {
                year.parse().ok().zip(month.parse::<u8>().ok()).and_then(|(year, month)| {
                    Date::from_calendar_date(year, Month::try_from(month).ok()?, day.parse().ok()?).ok()
                })
            }
            _ => None,
        };
        date.map(Self).ok_or_else(|| format!("invalid date `{text}`; expected one such as 2026-01-31"))
    }
}

impl From<Day> for String {
    fn from(Day(date): Day) -> Self {
        format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
    }
}

/// How a configuration names a stop token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum StopTokenName {
    /// By its id.
    Id(#[cfg_attr(feature = "schema", schemars(range(max = u32::MAX)))] u32),
    /// By its text.
    Text(String),
}

/// On a command line a number is an id.
impl std::str::FromStr for StopTokenName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(_) => text.parse().map(Self::Id).map_err(|_| "is not a token id".to_owned()),
            Err(_) => Ok(Self::Text(text.to_owned())),
        }
    }
}

/// By hand for the sake of the messages: an untagged enum would only say that nothing matched.
impl<'de> Deserialize<'de> for StopTokenName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = StopTokenName;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a token's id or its text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StopTokenName, E> {
                Ok(StopTokenName::Text(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<StopTokenName, E> {
                let id = u32::try_from(id).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))?;
                Ok(StopTokenName::Id(id))
            }
        }

        deserializer.deserialize_any(NameVisitor)
    }
}
