//! From a file and `--set` arguments to a configuration, with every problem that the text has.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use super::{Preset, Problems, TrainConfig};
use crate::{Error, Result};
use ltd_engine::EngineConfig;

/// More problems than a configuration has values: ends the search for them in any case.
const MOST_PROBLEMS: usize = 200;

impl TrainConfig {
    /// Reads a configuration, applies `path=value` overrides, fills in the preset's values and
    /// checks everything. All problems are reported at once. Overrides are applied in their order,
    /// the preset's before all others: it says what there is to change.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = ltd_policy::read_text(path)
            .map_err(|source| Error::ConfigFile { path: path.to_owned(), source })?;
        Self::parse(&text, path, overrides)
    }

    /// [`TrainConfig::load`] of text already read; `origin` is for messages.
    pub fn parse(text: &str, origin: &Path, overrides: &[String]) -> Result<Self> {
        let fail = |problems| Error::Config { origin: origin.to_owned(), problems };
        let mut problems = Problems::default();
        let mut written = match json_value(text) {
            Ok(value @ Value::Object(_)) => value,
            Ok(other) => {
                problems.add("(file)", format!("expected a JSON object, found {}", kind_of(&other)));
                return Err(fail(problems));
            }
            Err(error) => {
                let problem = if error.is_data() { error.to_string() } else { format!("not JSON: {error}") };
                problems.add("(file)", problem);
                return Err(fail(problems));
            }
        };
        // Editors write where the schema is. It is no part of the run.
        if let Some(place) = written.as_object_mut().and_then(|entries| entries.shift_remove("$schema"))
            && !place.is_string()
        {
            problems.add("$schema", format!("expected text, found {}", kind_of(&place)));
        }
        let mut overrides_of = |of_preset: bool, config: &mut Value| {
            for text in overrides.iter().filter(|text| names_preset(text) == of_preset) {
                if let Err(problem) = set(config, text) {
                    problems.add(format!("--set {text}"), problem);
                }
            }
        };
        overrides_of(true, &mut written);
        let preset: Option<Preset> =
            written.get("preset").and_then(|name| serde_json::from_value(name.clone()).ok());
        // A preset that does not exist is reported with everything else.
        let defaults = preset.unwrap_or_default().to_json();
        let mut merged = merge(defaults.clone(), written);
        overrides_of(false, &mut merged);
        let (config, text_problems) = parse_all(merged, &merge(defaults, placeholders()));
        problems.add_independent(text_problems);
        let Some(config) = config else { return Err(fail(problems)) };
        problems.add_independent(config.problems());
        if problems.is_empty() { Ok(config) } else { Err(fail(problems)) }
    }
}

/// Values for required keys while problems are searched for.
fn placeholders() -> Value {
    let prompts = json!({ "file": "", "skip": 0, "take": null });
    json!({
        "engine": EngineConfig::new("", ""),
        "prompts": { "train": prompts, "validation": prompts, "evaluation": prompts },
    })
}

/// JSON whose objects have each key once: of two values, a reader of the file could take either for
/// the one that counts.
fn json_value(text: &str) -> serde_json::Result<Value> {
    struct Distinct(Value);

    impl<'de> Deserialize<'de> for Distinct {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(DistinctVisitor).map(Self)
        }
    }

    struct DistinctVisitor;

    impl<'de> Visitor<'de> for DistinctVisitor {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("JSON")
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_str<E>(self, value: &str) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
            let mut list = Vec::new();
            while let Some(Distinct(item)) = items.next_element()? {
                list.push(item);
            }
            Ok(list.into())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
            let mut object = Map::new();
            while let Some((key, Distinct(value))) = entries.next_entry::<String, _>()? {
                if object.contains_key(&key) {
                    return Err(A::Error::custom(format!("key `{key}` is there twice")));
                }
                object.insert(key, value);
            }
            Ok(object.into())
        }
    }

    serde_json::from_str(text).map(|Distinct(value)| value)
}

/// The value of a `path=value`: JSON, or the text itself where it does not begin as JSON that only
/// text could need.
fn override_value(text: &str) -> Result<Value, String> {
    match json_value(text) {
        Ok(value) => Ok(value),
        Err(error) if error.is_data() => Err(error.to_string()),
        Err(error) if text.trim_start().starts_with(['"', '{', '[']) => {
            Err(format!("begins as JSON, but is not: {error}"))
        }
        Err(_) => Ok(text.into()),
    }
}

/// Whether a `path=value` is about the preset.
fn names_preset(text: &str) -> bool {
    text.split(['=', '.']).next() == Some("preset")
}

/// Applies `a.b=value`.
fn set(config: &mut Value, text: &str) -> Result<(), String> {
    let (path, value) = text.split_once('=').ok_or("expected path=value")?;
    let value = override_value(value)?;
    let mut place = config;
    let mut keys = path.split('.').peekable();
    while let Some(key) = keys.next() {
        if key.is_empty() {
            return Err("expected keys separated by single dots before `=`".to_owned());
        }
        place = match place {
            Value::Object(entries) => entries
                .entry(key)
                .or_insert_with(|| if keys.peek().is_some() { json!({}) } else { Value::Null }),
            Value::Array(items) => {
                let count = items.len();
                let item = key.parse::<usize>().ok().and_then(|index| items.get_mut(index));
                item.ok_or_else(|| format!("`{key}` is not an index into a list of {count}"))?
            }
            // What is null may be spelt out.
            Value::Null => {
                *place = json!({ key: null });
                &mut place[key]
            }
            other => return Err(format!("`{key}` cannot be set inside {}", kind_of(other))),
        };
    }
    // As in a file, an object changes the keys that it has.
    *place = merge(place.take(), value);
    Ok(())
}

/// `over` on top of `base`: objects key by key, everything else as a whole.
fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let merged = match base.remove(&key) {
                    Some(old) => merge(old, value),
                    None => value,
                };
                base.insert(key, merged);
            }
            Value::Object(base)
        }
        (_, over) => over,
    }
}

/// Parses, notes the first problem, mends it from `valid`, and goes on until all problems are
/// known. The result is only for finding further problems unless there were none.
fn parse_all(mut value: Value, valid: &Value) -> (Option<TrainConfig>, Problems) {
    let mut problems = Problems::default();
    for _ in 0..MOST_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, TrainConfig>(value.clone()) {
            Ok(config) => return (Some(config), problems),
            Err(error) => error,
        };
        let mut keys: Vec<Key> = error.path().iter().filter_map(Key::of).collect();
        let message = error.inner().to_string();
        if let Some(missing) = quoted_after(&message, "missing field `") {
            keys.push(Key::Name(missing.to_owned()));
            problems.add(path_text(&keys), "is missing, and has no default");
        } else if let Some(unknown) = quoted_after(&message, "unknown field `") {
            if !matches!(keys.last(), Some(Key::Name(name)) if name == unknown) {
                keys.push(Key::Name(unknown.to_owned()));
            }
            let known = message.split_once(", ").map_or("", |(_, known)| known);
            problems.add(path_text(&keys), format!("unknown key, {known}"));
            remove(&mut value, &keys);
            continue;
        } else {
            problems.add(path_text(&keys), in_plain_words(&message));
        }
        if !mend(&mut value, valid, &keys) {
            break;
        }
    }
    (None, problems)
}

/// One step of a path into a configuration.
enum Key {
    Name(String),
    Index(usize),
}

impl Key {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Name(key.clone())),
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }

    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Name(name) => value.get(name),
            Self::Index(index) => value.get(index),
        }
    }

    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        match self {
            Self::Name(name) => value.get_mut(name),
            Self::Index(index) => value.get_mut(index),
        }
    }
}

/// What a value's parser says, without the names that Rust has for kinds of values.
fn in_plain_words(message: &str) -> String {
    let words = [
        ("a sequence", "a list"),
        ("sequence", "a list"),
        ("map", "an object"),
        ("path string", "text"),
        ("a string", "text"),
        ("a boolean", "true or false"),
        ("f64", "a number"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("usize", "a whole number"),
    ];
    let wrong = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    let Some((found, expected)) = wrong.and_then(|wrong| wrong.split_once(", expected ")) else {
        return message.to_owned();
    };
    let plain = |text: &str| match words.iter().find(|(rust, _)| *rust == text) {
        Some((_, plain)) => (*plain).to_owned(),
        None if text.starts_with("struct ") => "an object".to_owned(),
        None => text.to_owned(),
    };
    let found = match found.split_once(' ') {
        Some(("string", value)) => value.to_owned(),
        Some(("integer" | "boolean", value)) => value.replace('`', ""),
        Some(("floating", value)) => value.strip_prefix("point ").unwrap_or(value).replace('`', ""),
        _ => plain(found),
    };
    format!("is {found}, expected {}", plain(expected))
}

fn path_text(keys: &[Key]) -> String {
    let mut text = String::new();
    for key in keys {
        match key {
            Key::Name(name) if text.is_empty() => text.push_str(name),
            Key::Name(name) => text.extend([".", name]),
            Key::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        }
    }
    if text.is_empty() { "(file)".to_owned() } else { text }
}

fn quoted_after<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start).and_then(|rest| rest.split_once('`')).map(|(name, _)| name)
}

fn remove(value: &mut Value, keys: &[Key]) {
    if let Some((Key::Name(last), parents)) = keys.split_last()
        && let Some(Value::Object(entries)) = parents.iter().try_fold(value, |value, key| key.get_mut(value))
    {
        entries.remove(last);
    }
}

/// Puts the valid value in the place of the broken one, or of the nearest part of the path that has
/// a valid value.
fn mend(value: &mut Value, valid: &Value, keys: &[Key]) -> bool {
    let known = |depth: usize| keys[..depth].iter().try_fold(valid, |value, key| key.get(value)).cloned();
    for depth in (1..=keys.len()).rev() {
        let (Some(replacement), Some((last, parents))) = (known(depth), keys[..depth].split_last()) else {
            continue;
        };
        let Some(parent) = parents.iter().try_fold(&mut *value, |value, key| key.get_mut(value)) else {
            continue;
        };
        match (last, parent) {
            (Key::Name(name), Value::Object(entries)) => _ = entries.insert(name.clone(), replacement),
            (Key::Index(index), Value::Array(items)) if *index < items.len() => items[*index] = replacement,
            _ => continue,
        }
        return true;
    }
    false
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
