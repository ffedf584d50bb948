//! A template's text, before minijinja reads it.

use minijinja::{Error, ErrorKind};

/// The template as minijinja understands it.
///
/// - Jinja knows one kind of line end.
/// - `{% generation %}`, which transformers adds to Jinja to mark what the assistant wrote, renders
///   what it holds in a scope of its own: so does `{% with %}`.
/// - Slices that go backwards to a given end come out otherwise than in Python, and are refused.
pub(super) fn prepare(source: &str) -> Result<String, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    while let Some(start) = rest.find('{') {
        let (text, tag) = rest.split_at(start);
        prepared.push_str(text);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') if !raw => tag.find("#}").map(|end| end + 2),
            Some(b'{') if !raw => end_of_code(tag, "}}"),
            Some(b'%') => end_of_code(tag, "%}"),
            _ => Some(1),
        };
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        let statement = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
        match statement.map(|code| code.trim_matches(['-', '+']).trim()) {
            Some("raw") => raw = true,
            Some("endraw") => raw = false,
            _ => {}
        }
        match statement.map(|code| code.trim_matches(['-', '+']).trim()).filter(|_| !raw) {
            Some("generation") => prepared.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => prepared.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ if !raw && !tag.starts_with("{#") && has_backward_slice_with_end(tag) => {
                let line = 1 + source[..source.len() - rest.len() + start].matches('\n').count();
                let problem =
                    format!("slices that go backwards to a given end are not supported (line {line})");
                return Err(Error::new(ErrorKind::SyntaxError, problem));
            }
            _ => prepared.push_str(tag),
        }
        rest = after;
    }
    Ok(prepared + rest)
}

/// Where a tag ends: after the first `end` that is not in a string.
fn end_of_code(tag: &str, end: &str) -> Option<usize> {
    let place = code(tag, 2).find(|&place| tag[place..].starts_with(end))?;
    Some(place + end.len())
}

/// Places of the characters from `start` on that are not in strings.
fn code(tag: &str, start: usize) -> impl Iterator<Item = usize> {
    let (mut quote, mut escaped) = (None, false);
    tag.char_indices().skip_while(move |&(place, _)| place < start).filter_map(move |(place, character)| {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None => return Some(place),
        }
        None
    })
}

/// Whether there is something like `[a:b:-c]`.
fn has_backward_slice_with_end(tag: &str) -> bool {
    let code: String = code(tag, 2).filter_map(|place| tag[place..].chars().next()).collect();
    let mut parts = code.split(':').skip(1).peekable();
    while let Some(end) = parts.next() {
        let is_end = !end.trim().is_empty() && !end.contains([',', '[', ']', '{', '}']);
        if is_end && parts.peek().is_some_and(|step| step.trim_start().starts_with('-')) {
            return true;
        }
    }
    false
}
