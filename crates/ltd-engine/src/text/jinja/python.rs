//! What a template may notice of Python: how values are written, and the methods of its strings.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value).into_owned(),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> Cow<'static, str> {
    match value.kind() {
        ValueKind::Undefined => "".into(),
        ValueKind::None => "None".into(),
        ValueKind::Bool if value.is_true() => "True".into(),
        ValueKind::Bool => "False".into(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()).into(),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<_> = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect();
            format!("[{}]", items.join(", ")).into()
        }
        ValueKind::Map => {
            let entry = |key: Value| {
                format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or(Value::UNDEFINED)))
            };
            let entries: Vec<_> = value.try_iter().into_iter().flatten().map(entry).collect();
            format!("{{{}}}", entries.join(", ")).into()
        }
        ValueKind::Number if !value.is_integer() => float(value).into(),
        _ => value.to_string().into(),
    }
}

/// The shortest digits, with an exponent for what is large or small.
fn float(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    let digits = format!("{number:e}");
    match digits.split_once('e').map(|(mantissa, exponent)| (mantissa, exponent.parse::<i32>())) {
        Some((mantissa, Ok(exponent))) if !(-4..16).contains(&exponent) => {
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            _ if character == quote => quoted.extend(['\\', quote]),
            _ if character.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push(quote);
    quoted
}

/// `str.isspace`, of one character.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// `str.strip(characters)`, at one end or both.
pub(super) fn strip<'t>(text: &'t str, characters: Option<&str>, start: bool, end: bool) -> &'t str {
    let goes = |character| characters.map_or_else(|| is_space(character), |set| set.contains(character));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

/// A method of a Python value: those of strings that minijinja's own collection lacks, or has
/// otherwise, and the rest of that.
pub(super) fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => string_method(text, name, args)
            .unwrap_or_else(|| pycompat::unknown_method_callback(state, value, name, args)),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match name {
        "strip" => stripped(text, args, true, true),
        "lstrip" => stripped(text, args, true, false),
        "rstrip" => stripped(text, args, false, true),
        "split" => split(text, args, false),
        "rsplit" => split(text, args, true),
        "partition" | "rpartition" => partition(text, args, name == "rpartition"),
        "splitlines" => split_lines(text, args),
        "removeprefix" => one(args).map(|prefix| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => one(args).map(|suffix| text.strip_suffix(suffix).unwrap_or(text).into()),
        "find" => one(args).map(|part| place(text, text.find(part)).into()),
        "rfind" => one(args).map(|part| place(text, text.rfind(part)).into()),
        "index" | "rindex" => one(args).and_then(|part| {
            let found = if name == "index" { text.find(part) } else { text.rfind(part) };
            match place(text, found) {
                -1 => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
                place => Ok(place.into()),
            }
        }),
        "count" => one(args).map(|part| text.matches(part).count().into()),
        "title" => from_args::<()>(args).map(|()| title(text, |character| !character.is_alphabetic()).into()),
        "isspace" => all(text, args, is_space),
        "isdigit" | "isnumeric" => all(text, args, char::is_numeric),
        "isalpha" => all(text, args, char::is_alphabetic),
        "isalnum" => all(text, args, char::is_alphanumeric),
        "islower" => cased(text, args, char::is_uppercase),
        "isupper" => cased(text, args, char::is_lowercase),
        _ => return None,
    })
}

fn one(args: &[Value]) -> Result<&str, Error> {
    from_args::<(&str,)>(args).map(|(argument,)| argument)
}

fn stripped(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    Ok(strip(text, characters, start, end).into())
}

/// Python counts characters.
fn place(text: &str, byte: Option<usize>) -> i64 {
    byte.map_or(-1, |byte| text[..byte].chars().count() as i64)
}

fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most, names): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(names.get("sep")?);
    let most: Option<i64> = most.or(names.get("maxsplit")?);
    names.assert_all_used()?;
    // A negative number is no limit.
    let parts = most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most + 1);
    let mut pieces: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if from_end => text.rsplitn(parts, separator).collect(),
        Some(separator) => text.splitn(parts, separator).collect(),
        None => split_blanks(text, parts, from_end),
    };
    if from_end {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// Pieces between blanks, from the start or the end. What is left when there are `parts` keeps its
/// blanks.
fn split_blanks(text: &str, parts: usize, from_end: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = strip(text, None, !from_end, from_end);
    while !rest.is_empty() {
        if pieces.len() + 1 == parts {
            pieces.push(rest);
            break;
        }
        let (piece, after) = if from_end {
            rest.rfind(is_space).map_or((rest, ""), |blank| {
                let (after, piece) = rest.split_at(blank);
                (strip(piece, None, true, false), after)
            })
        } else {
            rest.find(is_space).map_or((rest, ""), |blank| rest.split_at(blank))
        };
        pieces.push(piece);
        rest = strip(after, None, !from_end, from_end);
    }
    pieces
}

fn partition(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let separator = one(args)?;
    let found = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep_ends,): (Option<bool>,) = from_args(args)?;
    let is_end = |character: char| {
        matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end);
        let ending = end.map_or(0, |end| {
            let after = &rest[end..];
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) }
        });
        let end = end.unwrap_or(rest.len());
        let kept = if keep_ends.unwrap_or(false) { end + ending } else { end };
        lines.push(Value::from(&rest[..kept]));
        rest = &rest[end + ending..];
    }
    Ok(lines.into())
}

/// What follows the start or a character that `divides` is large, all else small.
pub(super) fn title(text: &str, divides: impl Fn(char) -> bool) -> String {
    let mut titled = String::new();
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        in_word = !divides(character);
    }
    titled
}

/// No empty string is all of a kind.
fn all(text: &str, args: &[Value], is: impl Fn(char) -> bool) -> Result<Value, Error> {
    from_args::<()>(args)?;
    Ok((!text.is_empty() && text.chars().all(is)).into())
}

/// Whether there are letters, and none of the other case.
fn cased(text: &str, args: &[Value], is_other: impl Fn(char) -> bool) -> Result<Value, Error> {
    from_args::<()>(args)?;
    let has_letters = text.chars().any(|character| character.is_lowercase() || character.is_uppercase());
    Ok((has_letters && !text.chars().any(is_other)).into())
}
