//! Jinja as transformers sets it up for chat templates.
//!
//! minijinja is Jinja with a few differences; what a template may notice is made equal here
//! ([`python`], [`json`]), and what is not there is an error that names the construct.

mod json;
mod python;
mod source;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use time::OffsetDateTime;
use time::format_description::parse_strftime_owned;

use super::guard::guard;

/// What a template is called in error messages, which name the line: `(in chat_template:3)`.
const NAME: &str = "chat_template";

/// Lines of a template, and bytes of a line, at most: the library counts both with 16 bits.
const MOST_PLACES: usize = 65_000;
/// Steps after which rendering ends with an error. Published templates take some thousands.
const MOST_STEPS: u64 = 10_000_000;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template(Environment<'static>);

impl Template {
    /// `now` is the time that the template is told.
    pub(super) fn compile(source: &str, now: OffsetDateTime) -> Result<Self, Error> {
        let source = source::prepare(source)?;
        check_size(&source)?;
        guarded(|| {
            let mut environment = environment(now);
            environment.add_template_owned(NAME, source)?;
            Ok(Self(environment))
        })
    }

    pub(super) fn render(&self, variables: Value) -> Result<String, Error> {
        guarded(|| self.0.get_template(NAME)?.render(variables))
    }
}

/// A call into the library, whose panic is an error like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    guard(call).unwrap_or_else(|message| {
        let problem = format!("it makes the template library panic: {message}");
        Err(Error::new(ErrorKind::InvalidOperation, problem))
    })
}

/// Fails if a template has more lines, or characters in one, than the library counts.
fn check_size(source: &str) -> Result<(), Error> {
    let lines = source.lines().count();
    let longest = source.lines().map(str::len).max().unwrap_or_default();
    for (what, found) in [("lines", lines), ("bytes in a line", longest)] {
        if found > MOST_PLACES {
            let problem = format!("the template has {found} {what}, must be at most {MOST_PLACES}");
            return Err(Error::new(ErrorKind::SyntaxError, problem));
        }
    }
    Ok(())
}

/// The settings, functions, filters and tests that transformers gives to templates.
fn environment(now: OffsetDateTime) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(MOST_STEPS));
    environment.set_formatter(|out, state, value| match state.auto_escape() {
        AutoEscape::None => Ok(out.write_str(&python::text(value))?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.set_unknown_method_callback(python::method);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(now, format));
    environment.add_filter("tojson", json::dumps);
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
        python::strip(&python::text(value), characters, true, true).to_owned()
    });
    environment.add_filter("replace", |value: &Value, old: &str, new: &str, most: Option<usize>| {
        python::text(value).replacen(old, new, most.unwrap_or(usize::MAX))
    });
    environment.add_filter("title", |value: &Value| {
        python::title(&python::text(value), |character| {
            character.is_whitespace() || "-({[<".contains(character)
        })
    });
    for other_than_jinjas in ["pprint", "attr"] {
        environment.remove_filter(other_than_jinjas);
    }
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("join", join);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_iterable);
    environment
}

/// What is not there has no length.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let problem = || format!("cannot calculate the length of a value of type {}", value.kind());
    value.len().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, problem()))
}

#[expect(clippy::needless_pass_by_value, reason = "the form that minijinja asks of filters")]
fn join(value: &Value, separator: Option<&str>, options: Kwargs) -> Result<String, Error> {
    let separator = separator.or(options.get("d")?).unwrap_or_default();
    let attribute: Option<&str> = options.get("attribute")?;
    options.assert_all_used()?;
    let mut parts = Vec::new();
    if !value.is_undefined() {
        for item in value.try_iter()? {
            let item = attribute.map_or_else(|| Ok(item.clone()), |name| item.get_attr(name))?;
            parts.push(python::text(&item));
        }
    }
    Ok(parts.join(separator))
}

/// Strings and mappings are, and what is not there, as an empty sequence.
fn is_iterable(value: &Value) -> bool {
    value.is_undefined()
        || matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Bytes
        )
}

fn strftime(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    let refused = |problem: String| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now('{format}'): {problem}"))
    };
    // The crate numbers weekdays from 1.
    if format.replace("%%", "").contains("%w") {
        return Err(refused("%w is not supported".to_owned()));
    }
    let description = parse_strftime_owned(format).map_err(|error| refused(error.to_string()))?;
    now.format(&description).map_err(|error| refused(error.to_string()))
}
