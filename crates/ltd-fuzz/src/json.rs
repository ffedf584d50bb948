//! Changes of JSON values that leave them JSON.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value};

/// Stands for text that is put in after the rest was written: deep values cannot be built of nodes,
/// whose destructors would use up the stack.
const MARK: &str = "\u{1}mark\u{1}";

/// Key of what was an object written as text.
const WRITTEN: &str = "\u{1}written\u{1}";

/// Values that parsers stumble over, as text.
const VALUES: [&str; 32] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0.5",
    "1e-320",
    "1e30",
    "1e300",
    "1e999",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "\"\"",
    "\"\\u0000\"",
    "\"../..\"",
    "[]",
    "{}",
    "[[],{},null,1,\"a\"]",
];

#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Another value.
    Value(&'static str),
    /// A number or text like what is there.
    Other(i64),
    /// The key or the item is left out.
    Remove,
    /// The key is spelt otherwise.
    Rename,
    /// The value of another node.
    Copy(Index),
    /// The item, or the text, many times.
    Repeat(usize),
    /// The value within lists, or objects, within others.
    Nest { levels: usize, objects: bool },
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => prop::sample::select(VALUES.to_vec()).prop_map(Change::Value),
        2 => prop_oneof![any::<i64>(), -300i64..300].prop_map(Change::Other),
        1 => Just(Change::Remove),
        1 => Just(Change::Rename),
        2 => any::<Index>().prop_map(Change::Copy),
        1 => prop::sample::select(vec![2, 16, 300]).prop_map(Change::Repeat),
        1 => (prop::sample::select(vec![1, 2, 100, 127, 128, 5000]), any::<bool>())
            .prop_map(|(levels, objects)| Change::Nest { levels, objects }),
    ]
}

/// Text of which nothing more is made at a time: what grows again and again is no small input.
const LONGEST_GROWING: usize = 16 << 10;

/// The value in `text` with one of its nodes changed; nothing if it is no JSON.
pub(crate) fn change_node(text: &[u8], node: Index, change: &Change) -> Option<String> {
    let grows = matches!(change, Change::Repeat(_) | Change::Copy(_) | Change::Nest { .. });
    if grows && text.len() > LONGEST_GROWING {
        return None;
    }
    let mut value = expanded(serde_json::from_slice(text).ok()?);
    let count = count(&value);
    let inserted = match change {
        Change::Value(text) => (*text).to_owned(),
        Change::Copy(from) => find(&value, &mut from.index(count))?.to_string(),
        Change::Nest { levels, objects } => {
            let (open, close) = if *objects { ("{\"a\":", "}") } else { ("[", "]") };
            let inner = find(&value, &mut node.index(count))?.to_string();
            open.repeat(*levels) + &inner + &close.repeat(*levels)
        }
        Change::Other(_) | Change::Remove | Change::Rename | Change::Repeat(_) => String::new(),
    };
    if alter(&mut value, &mut node.index(count), change) == Altered::Removed {
        value = Value::Null;
    }
    Some(text_of(&collapsed(value, &inserted), &inserted))
}

/// The text of a value with what is inserted at the mark.
fn text_of(value: &Value, inserted: &str) -> String {
    value.to_string().replace(&Value::from(MARK).to_string(), inserted)
}

/// A value in which objects that are written as text, as in a safetensors file's metadata, are
/// objects.
fn expanded(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with('{') => match serde_json::from_str(&text) {
            Ok(inner) => Value::Object(Map::from_iter([(WRITTEN.to_owned(), expanded(inner))])),
            Err(_) => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(expanded).collect(),
        Value::Object(entries) => entries.into_iter().map(|(key, entry)| (key, expanded(entry))).collect(),
        other => other,
    }
}

/// The reverse of [`expanded`].
fn collapsed(value: Value, inserted: &str) -> Value {
    match value {
        Value::Object(mut entries) => match entries.shift_remove(WRITTEN) {
            Some(inner) => text_of(&collapsed(inner, inserted), inserted).into(),
            None => entries.into_iter().map(|(key, entry)| (key, collapsed(entry, inserted))).collect(),
        },
        Value::Array(items) => items.into_iter().map(|item| collapsed(item, inserted)).collect(),
        other => other,
    }
}

/// Nodes of a value.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// The node of a number, depth first; `left` counts down to it.
fn find<'v>(value: &'v Value, left: &mut usize) -> Option<&'v Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| find(item, left)),
        Value::Object(entries) => entries.values().find_map(|entry| find(entry, left)),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Altered {
    NotHere,
    Done,
    /// The parent is to leave it out.
    Removed,
    /// The parent is to call it otherwise.
    Renamed,
    /// The parent, if it is a list, is to have it more often.
    Repeated(usize),
}

fn alter(value: &mut Value, left: &mut usize, change: &Change) -> Altered {
    if *left == 0 {
        return alter_here(value, change);
    }
    *left -= 1;
    match value {
        Value::Array(items) => {
            for index in 0..items.len() {
                match alter(&mut items[index], left, change) {
                    Altered::NotHere => {}
                    Altered::Removed => {
                        items.remove(index);
                        return Altered::Done;
                    }
                    Altered::Repeated(times) => {
                        let item = items[index].clone();
                        items.extend(std::iter::repeat_n(item, times));
                        return Altered::Done;
                    }
                    Altered::Done | Altered::Renamed => return Altered::Done,
                }
            }
            Altered::NotHere
        }
        Value::Object(entries) => alter_entry(entries, left, change),
        _ => Altered::NotHere,
    }
}

fn alter_entry(entries: &mut Map<String, Value>, left: &mut usize, change: &Change) -> Altered {
    let mut found = None;
    for (key, entry) in entries.iter_mut() {
        let altered = alter(entry, left, change);
        if altered != Altered::NotHere {
            found = Some((key.clone(), altered));
            break;
        }
    }
    match found {
        None => return Altered::NotHere,
        Some((key, Altered::Removed)) => _ = entries.shift_remove(&key),
        Some((key, Altered::Renamed)) => {
            let value = entries.shift_remove(&key).unwrap_or_default();
            entries.insert(key + "_", value);
        }
        Some(_) => {}
    }
    Altered::Done
}

fn alter_here(value: &mut Value, change: &Change) -> Altered {
    match change {
        Change::Remove => return Altered::Removed,
        Change::Rename => return Altered::Renamed,
        Change::Value(_) | Change::Copy(_) | Change::Nest { .. } => *value = MARK.into(),
        Change::Other(number) => {
            *value = match value {
                Value::String(text) => format!("{text}{number}").into(),
                Value::Number(old) if old.is_f64() => (*number as f64 / 1e3).into(),
                _ => (*number).into(),
            }
        }
        Change::Repeat(times) => {
            if let Value::String(text) = value {
                *text = text.repeat(*times);
            }
            return Altered::Repeated(*times);
        }
    }
    Altered::Done
}
