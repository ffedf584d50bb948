//! The tables of `docs/configuration.md`, made of the schema.

use serde_json::{Map, Value};

/// Objects of a configuration that have the same keys: one table.
struct Section<'s> {
    objects: Vec<(String, &'s Value)>,
}

/// All tables, each under the path of its object.
pub(crate) fn tables(schema: &Value) -> String {
    let mut sections = Vec::new();
    collect("", schema, &mut sections);
    let tables: Vec<String> = sections.iter().map(|section| section.table(&sections)).collect();
    tables.join("\n")
}

fn collect<'s>(path: &str, object: &'s Value, sections: &mut Vec<Section<'s>>) {
    let keys = without_defaults(object);
    match sections.iter_mut().find(|section| without_defaults(section.objects[0].1) == keys) {
        Some(section) => section.objects.push((path.to_owned(), object)),
        None => sections.push(Section { objects: vec![(path.to_owned(), object)] }),
    }
    for (key, property) in properties(object) {
        if let Some(inner) = object_within(property) {
            collect(&path_of(path, key, property), inner, sections);
        }
    }
}

impl Section<'_> {
    fn heading(&self) -> String {
        let paths: Vec<String> = self.objects.iter().map(|(path, _)| format!("`{path}`")).collect();
        if paths == ["``"] { "The file".to_owned() } else { paths.join(", ") }
    }

    /// What a link to the heading says after `#`: `scripts/check_docs.py` makes it in the same way.
    fn anchor(&self) -> String {
        let heading = self.heading().to_lowercase().replace(' ', "-");
        heading.chars().filter(|&letter| letter.is_alphanumeric() || "-_".contains(letter)).collect()
    }

    fn table(&self, sections: &[Section]) -> String {
        let (path, first) = &self.objects[0];
        let mut text = format!("### {}\n\n| key | value | default | meaning |\n", self.heading());
        text.push_str("| --- | --- | --- | --- |\n");
        for (key, property) in properties(first) {
            let path = path_of(path, key, property);
            let section =
                sections.iter().find(|section| section.objects.iter().any(|(other, _)| *other == path));
            let anchor = section.map(Section::anchor).unwrap_or_default();
            let value = values(property, false, &anchor);
            let cells = [format!("`{key}`"), listed(&value, " or "), self.default_of(key), meaning(property)];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            text.push_str(format!("| {} |", cells.join(" | ")).replace("  ", " ").as_str());
            text.push('\n');
        }
        text
    }

    /// A key's value in each preset, said once where they are the same.
    fn default_of(&self, key: &str) -> String {
        let first = self.objects[0].1;
        if first["required"].as_array().is_some_and(|keys| keys.iter().any(|required| required == key)) {
            return "required".to_owned();
        }
        let mut groups: Vec<(Vec<&str>, Vec<String>)> = Vec::new();
        for preset in ["quick", "paper", "official"] {
            let of_preset = |(_, object): &(String, &Value)| {
                let property = &object["properties"][key];
                let value = property.get("default").or_else(|| property.get("x-defaults")?.get(preset));
                value.map(code)
            };
            let Some(defaults) = self.objects.iter().map(of_preset).collect() else { return String::new() };
            match groups.iter_mut().find(|(_, known)| *known == defaults) {
                Some((presets, _)) => presets.push(preset),
                None => groups.push((vec![preset], defaults)),
            }
        }
        let of_objects = |defaults: &[String]| {
            if defaults.iter().all(|default| *default == defaults[0]) {
                return defaults[0].clone();
            }
            let each = self.objects.iter().zip(defaults);
            each.map(|((path, _), default)| format!("{default} (`{path}`)")).collect::<Vec<_>>().join(", ")
        };
        match &groups[..] {
            [(_, defaults)] => of_objects(defaults),
            groups => {
                let line = |(presets, defaults): &(Vec<&str>, Vec<String>)| {
                    format!("{}: {}", presets.join(", "), of_objects(defaults))
                };
                groups.iter().map(line).collect::<Vec<_>>().join("<br>")
            }
        }
    }
}

/// What a value can be: one text per possibility.
fn values(schema: &Value, plural: bool, anchor: &str) -> Vec<String> {
    if let Some(texts) = schema["enum"].as_array() {
        return texts.iter().map(code).collect();
    }
    if let Some(one) = schema.get("const") {
        return vec![code(one)];
    }
    let possibilities = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(possibilities) = possibilities {
        let kind = schema["type"].as_str().map(|kind| noun(kind, plural, anchor) + " ");
        let each = possibilities.iter().flat_map(|one| match &kind {
            Some(kind) if one.get("const").is_none() => vec![format!("{kind}{}", range(one))],
            _ => values(one, plural, anchor),
        });
        return each.collect();
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().expect("a type")],
    };
    let of_kind = |kind: &str| match kind {
        "array" => list(schema, plural, anchor),
        "integer" | "number" => format!("{} {}", noun(kind, plural, anchor), range(schema)).trim().to_owned(),
        kind => noun(kind, plural, anchor),
    };
    kinds.into_iter().map(of_kind).collect()
}

fn noun(kind: &str, plural: bool, anchor: &str) -> String {
    let plural = if plural { "s" } else { "" };
    match kind {
        "object" => format!("[object{plural}](#{anchor})"),
        "string" => format!("text{plural}"),
        "boolean" => "`true` or `false`".to_owned(),
        "null" => "`null`".to_owned(),
        kind => format!("{kind}{plural}"),
    }
}

fn list(schema: &Value, plural: bool, anchor: &str) -> String {
    let count = match (schema["minItems"].as_u64(), schema["maxItems"].as_u64()) {
        (Some(least), None) => format!("{least} or more "),
        (None, Some(most)) => format!("at most {most} "),
        (None, None) => String::new(),
        (Some(least), Some(most)) => format!("{least} to {most} "),
    };
    let list = if plural { "lists" } else { "list" };
    format!("{list} of {count}{}", listed(&values(&schema["items"], true, anchor), " or "))
}

fn range(schema: &Value) -> String {
    let bound = |key: &str| schema.get(key).map(number);
    match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum"), bound("exclusiveMaximum")) {
        (Some(least), _, Some(most), _) => format!("from {least} to {most}"),
        (Some(least), _, None, _) => format!("from {least}"),
        (None, Some(above), Some(most), _) => format!("above {above}, at most {most}"),
        (None, Some(above), _, Some(below)) => format!("above {above}, below {below}"),
        (None, None, Some(most), _) => format!("at most {most}"),
        _ => String::new(),
    }
}

/// With commas between thousands, and without the zero of `1.0`.
fn number(value: &Value) -> String {
    let text = value.to_string();
    let Some(whole) = value.as_u64().or_else(|| text.strip_suffix(".0")?.parse().ok()) else { return text };
    let digits = whole.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value as it is written in a file; of long lists of equal steps the first two and the last.
fn code(value: &Value) -> String {
    format!("`{}`", json(value))
}

fn json(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let steps: Vec<f64> =
                items.windows(2).map_while(|pair| Some(pair[1].as_f64()? - pair[0].as_f64()?)).collect();
            let mut texts: Vec<String> = items.iter().map(json).collect();
            if items.len() > 6 && steps.len() == items.len() - 1 && steps.iter().all(|step| *step == steps[0])
            {
                texts.splice(2..texts.len() - 1, ["...".to_owned()]);
            }
            format!("[{}]", texts.join(", "))
        }
        Value::Object(entries) => {
            // What is null may be left out of the objects that lists have.
            let entries = entries.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<String> =
                entries.map(|(key, value)| format!("\"{key}\": {}", json(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        // In tables, texts are told from numbers by what they say.
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The description, and those of the names that it can have.
fn meaning(property: &Value) -> String {
    let mut text = property["description"].as_str().unwrap_or_default().to_owned();
    note_names(property, &mut text);
    text
}

fn note_names(schema: &Value, text: &mut String) {
    for one in ["oneOf", "anyOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
        if let (Some(name), Some(description)) = (one.get("const"), one["description"].as_str()) {
            text.extend(["<br>", &code(name), ": ", description]);
        }
        note_names(one, text);
    }
}

fn listed(texts: &[String], last: &str) -> String {
    match texts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., end] => format!("{}{last}{end}", first.join(", ")),
    }
}

fn properties(object: &Value) -> &Map<String, Value> {
    object["properties"].as_object().expect("an object")
}

/// The object that a property is, or that its list has.
fn object_within(property: &Value) -> Option<&Value> {
    if property.get("properties").is_some() {
        return Some(property);
    }
    let possibilities = property["anyOf"].as_array().into_iter().flatten();
    possibilities.chain(property.get("items")).find(|one| one.get("properties").is_some())
}

fn path_of(path: &str, key: &str, property: &Value) -> String {
    let list = if property["items"].get("properties").is_some() { "[]" } else { "" };
    if path.is_empty() { format!("{key}{list}") } else { format!("{path}.{key}{list}") }
}

fn without_defaults(schema: &Value) -> Value {
    match schema {
        Value::Object(entries) => {
            let entries = entries.iter().filter(|(key, _)| {
                !["default", "x-defaults", "description", "title"].contains(&key.as_str())
            });
            let entries: Map<_, _> =
                entries.map(|(key, value)| (key.clone(), without_defaults(value))).collect();
            entries.into()
        }
        Value::Array(items) => items.iter().map(without_defaults).collect(),
        other => other.clone(),
    }
}
