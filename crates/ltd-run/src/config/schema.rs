//! A configuration's JSON schema, made of its types and of the presets.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Map, Value, json};

use super::{Preset, TrainConfig};

/// Says what each preset has for a key, where they differ.
const PRESET_DEFAULTS: &str = "x-defaults";

/// The JSON schema of a file: what is in it, and what of that may be left out because every preset
/// has it.
///
/// A key whose value is the same in all presets has it as `default`. Where they differ,
/// `x-defaults` has one value per preset.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let settings = settings.with_transform(RecursiveTransform(tidy));
    let root = settings.into_generator().into_root_schema_for::<TrainConfig>();
    let mut root = root.to_value();
    let presets = Preset::ALL.map(Preset::to_json);
    let presets: Vec<_> =
        presets.iter().filter_map(|values| Some((values["preset"].as_str()?, values))).collect();
    if let Some(root) = root.as_object_mut() {
        fill_in(root, &presets);
        if let Some(Value::Object(properties)) = root.get_mut("properties") {
            name_what_is_of_files(properties);
        }
        for key in ["description", "title", "$schema"] {
            if let Some(value) = root.shift_remove(key) {
                root.shift_insert(0, key.to_owned(), value);
            }
        }
    }
    root
}

/// The keys that no preset has a value for: the preset's own name, and `$schema`, which is no part
/// of a run.
fn name_what_is_of_files(properties: &mut Map<String, Value>) {
    if let Some(Value::Object(preset)) = properties.get_mut("preset") {
        preset.shift_remove(PRESET_DEFAULTS);
        preset.insert("default".to_owned(), json!(Preset::default()));
    }
    let description = "Where this schema is, for editors; nothing else reads it.";
    let place = json!({ "description": description, "type": "string" });
    properties.shift_insert(0, "$schema".to_owned(), place);
}

/// Takes out what only Rust's types mean, and the line breaks of comments.
fn tidy(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else { return };
    // Not `remove`, which would shuffle the others.
    schema.shift_remove("format");
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
}

/// Notes the presets' values in the schema of an object, and takes the keys that they have from
/// those that a file must have. True if there are others.
fn fill_in(schema: &mut Map<String, Value>, presets: &[(&str, &Value)]) -> bool {
    let mut required_within = Vec::new();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (key, property) in properties {
            let values: Vec<_> =
                presets.iter().filter_map(|(preset, values)| Some((*preset, values.get(key)?))).collect();
            let Some(property) = property.as_object_mut() else { continue };
            let can_be_null = !property.contains_key("properties");
            if let Some(object) = object_part(property)
                && fill_in(object, &values)
                && !can_be_null
            {
                required_within.push(key.clone());
            }
            note_default(property, &values);
        }
    }
    let Some(Value::Array(required)) = schema.get_mut("required") else { return false };
    let has = |key: &str| presets.iter().any(|(_, values)| values.get(key).is_some());
    required.retain(|key| {
        key.as_str().is_some_and(|key| !has(key) || required_within.iter().any(|other| other == key))
    });
    let any = !required.is_empty();
    if !any {
        schema.shift_remove("required");
    }
    any
}

/// The schema of an object's keys, be it only one of the possibilities.
fn object_part(schema: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    if schema.contains_key("properties") {
        return Some(schema);
    }
    let possibilities = schema.get_mut("anyOf")?.as_array_mut()?;
    possibilities.iter_mut().filter_map(Value::as_object_mut).find(|one| one.contains_key("properties"))
}

fn note_default(property: &mut Map<String, Value>, presets: &[(&str, &Value)]) {
    // Of an object, each key has its own.
    if property.get("default").is_some_and(Value::is_object) {
        property.shift_remove("default");
    }
    let Some(((_, first), others)) = presets.split_first() else { return };
    if first.is_object() {
        return;
    }
    // The type's own, which no file gets that leaves the key out.
    property.shift_remove("default");
    if others.iter().all(|(_, value)| value == first) {
        property.insert("default".to_owned(), (*first).clone());
    } else {
        let by_preset: Map<_, _> =
            presets.iter().map(|&(preset, value)| (preset.to_owned(), value.clone())).collect();
        property.insert(PRESET_DEFAULTS.to_owned(), by_preset.into());
    }
}
