//! The schema of a configuration is that of its types and accepts what the parser accepts; the
//! reference is made of it.

mod tables;

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use ltd_run::TrainConfig;
use ltd_run::config::{Preset, schema};
use serde_json::{Value, json};

use crate::tiny::config;

const BEGIN: &str = "<!-- Made of the types; CONTRIBUTING.md says how. -->\n";
const END: &str = "<!-- End of what is made of the types. -->\n";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).expect("a schema")
}

fn is_parsed(value: &Value) -> bool {
    TrainConfig::parse(&value.to_string(), Path::new("test.json"), &[]).is_ok()
}

#[test]
fn the_reference_is_that_of_the_types() {
    let docs = workspace().join("docs");
    let mut text = serde_json::to_string_pretty(&schema()).expect("plain data");
    text.push('\n');
    let page = docs.join("configuration.md");
    let written = std::fs::read_to_string(&page).expect("the page");
    let (before, rest) = written.split_once(BEGIN).expect("where it begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    let made = format!("{before}{BEGIN}\n{}\n{END}{after}", tables::tables(&schema()));
    for (path, expected) in [(docs.join("configuration.schema.json"), text), (page, made)] {
        if std::env::var_os("LTD_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &expected).expect("written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        // Not `assert_eq`: nobody reads two pages beside each other.
        let stale = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
        assert!(
            found == expected,
            "{} is not what the types say, first at {stale:?}; to write it: LTD_WRITE_REFERENCE=1 cargo test \
             --workspace --test it reference::",
            path.display()
        );
    }
}

#[test]
fn the_schema_is_one() {
    jsonschema::draft202012::meta::validate(&schema()).expect("a schema of draft 2020-12");
}

#[test]
fn every_committed_configuration_is_as_the_schema_says() {
    let validator = validator();
    let mut folders = vec![workspace().join("configs")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a file");
            let value: Value = serde_json::from_str(&text).expect("JSON");
            validator.validate(&value).unwrap_or_else(|error| {
                panic!("{}: {}: {error}", path.display(), error.instance_path());
            });
            count += 1;
        }
    }
    assert!(count > 5, "{count} files");
}

/// A configuration with every value written out.
fn whole(folder: &Path, preset: Preset) -> Value {
    let mut base = config(folder);
    base["preset"] = json!(preset);
    base["engine"]["max_depth"] = json!(12);
    base["replay"] = json!({});
    base["stages"]["predictor"] = json!({});
    base["stages"]["imitation"] = json!({});
    let parsed = TrainConfig::parse(&base.to_string(), Path::new("test.json"), &[]).expect("a configuration");
    serde_json::to_value(&parsed).expect("plain data")
}

#[test]
fn what_is_written_out_is_as_the_schema_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let validator = validator();
    let small = config(folder.path());
    let least = json!({ "engine": { "target": "a", "draft": "b" }, "prompts": small["prompts"] });
    let all = Preset::ALL.map(|preset| whole(folder.path(), preset));
    for value in all.iter().chain([&small, &least]) {
        validator.validate(value).unwrap_or_else(|error| panic!("{}: {error}", error.instance_path()));
    }
}

/// Fails unless what the schema has as default for a preset is what a file gets that names nothing.
fn compare_defaults(schema: &Value, parsed: &Value, preset: &str, path: &str, count: &mut usize) {
    let possibilities = schema["anyOf"].as_array().into_iter().flatten();
    let object = std::iter::once(schema).chain(possibilities).find_map(|one| one["properties"].as_object());
    if let (Some(properties), Some(_)) = (object, parsed.as_object()) {
        for (key, property) in properties {
            compare_defaults(property, &parsed[key], preset, &format!("{path}.{key}"), count);
        }
        return;
    }
    assert!(schema.get("default").is_none() || schema.get("x-defaults").is_none(), "{path}: two defaults");
    let Some(default) = schema.get("default").or_else(|| schema.get("x-defaults")?.get(preset)) else {
        return;
    };
    if path != ".preset" {
        assert_eq!(default, parsed, "{path} of {preset}");
        *count += 1;
    }
}

#[test]
fn the_defaults_of_the_schema_are_what_a_file_gets() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = config(folder.path());
    for preset in ["quick", "paper", "official"] {
        let (target, draft) = (&small["engine"]["target"], &small["engine"]["draft"]);
        let mut least = json!({
            "$schema": "anywhere", "preset": preset,
            "engine": { "target": target, "draft": draft }, "prompts": small["prompts"],
        });
        for set in ["train", "validation", "evaluation"] {
            least["prompts"][set] = json!({ "file": small["prompts"][set]["file"] });
        }
        // Of what is null by default, the keys have defaults of their own.
        let mut more = least.clone();
        more["replay"] = json!({});
        more["stages"] = json!({ "predictor": {}, "imitation": {} });
        for (value, keys) in [(least, 70), (more, 80)] {
            let parsed = TrainConfig::parse(&value.to_string(), Path::new("test.json"), &[]);
            let parsed = serde_json::to_value(parsed.expect("a configuration")).expect("plain data");
            let mut count = 0;
            compare_defaults(&schema(), &parsed, preset, "", &mut count);
            assert!(count > keys, "{count} defaults compared");
        }
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let validator = validator();
    let whole = whole(folder.path(), Preset::Quick);
    assert!(is_parsed(&whole) && validator.is_valid(&whole));
    for (place, value) in [
        ("/sede", json!(1)),
        ("/engine/beams", json!(10)),
        ("/engine/chat/templates", json!(null)),
        ("/prompts/train/skipp", json!(1)),
        ("/sampling/top_a", json!(1)),
        ("/stages/round/0/steps", json!(5)),
        ("/seed", json!("1")),
        ("/seed", json!(null)),
        ("/preset", json!("papers")),
        ("/preset", json!(null)),
        ("/$schema", json!(1)),
        ("/engine/target", json!(7)),
        ("/engine/devices", json!("cuda")),
        ("/engine/devices", json!(null)),
        ("/engine/dtype", json!("int8")),
        ("/engine/beam_width", json!("ten")),
        ("/engine/chat/date", json!("tomorrow")),
        ("/engine/chat/stop_tokens", json!([1.5])),
        ("/engine/chat/template", json!("alpaca")),
        ("/prompts/train", json!("questions.jsonl")),
        ("/reward", json!("speed")),
        ("/depth", json!(null)),
        ("/depth/layout", json!("compacted")),
        ("/depth/ppo/linear_decay", json!(1)),
        ("/size/sizes", json!([8])),
        ("/size/sizes", json!([4, 4])),
        ("/size/sizes", json!({ "sizes": [4, 8] })),
        ("/stages/size/max_minutes", json!(0)),
        ("/stages/round/0/train", json!("width")),
        ("/stages/round/0/backend", json!("dead")),
        ("/stages/round/0", json!({ "train": "size" })),
        ("/evaluation/grid/depths", json!([])),
    ] {
        let mut broken = whole.clone();
        let (parent, key) = place.rsplit_once('/').expect("a place");
        match broken.pointer_mut(parent).expect("a parent") {
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value.clone(),
            parent => parent[key] = value.clone(),
        }
        assert!(!is_parsed(&broken), "the parser takes {value} for {place}");
        assert!(!validator.is_valid(&broken), "the schema takes {value} for {place}");
    }
    for place in [
        "/engine",
        "/engine/target",
        "/engine/draft",
        "/prompts",
        "/prompts/train/file",
        "/stages/round/1/total_timesteps",
    ] {
        let mut broken = whole.clone();
        let (parent, key) = place.rsplit_once('/').expect("a place");
        broken.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key);
        assert!(!is_parsed(&broken), "the parser does without {place}");
        assert!(!validator.is_valid(&broken), "the schema does without {place}");
    }
}

/// The places of all values that are no objects.
fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            entries.iter().for_each(|(key, value)| places(value, &format!("{place}/{key}"), found));
        }
        Value::Array(items) => {
            found.push(place.to_owned());
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| places(value, &format!("{place}/{index}"), found));
        }
        _ => found.push(place.to_owned()),
    }
}

#[test]
fn the_schema_refuses_only_what_the_parser_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let validator = validator();
    let whole = whole(folder.path(), Preset::Quick);
    let mut found = Vec::new();
    places(&whole, "", &mut found);
    assert!(found.len() > 100, "{found:?}");
    let values: Vec<Value> = serde_json::from_str(
        r#"[0, 1, 2, -1, 0.5, 1.0, 1e-300, 1e300, 13, 5000, 20000, 2000000, 4294967296, 18446744073709551615, null, true,
            "", "auto", "2026-01-31", [], [2], [1, 2], {}]"#,
    )
    .expect("JSON");
    let mut refused = 0;
    for place in &found {
        for value in &values {
            let mut changed = whole.clone();
            *changed.pointer_mut(place).expect("a place") = value.clone();
            // A device that does not exist is found when the engine is opened.
            if !validator.is_valid(&changed) && !place.starts_with("/engine/device") {
                refused += 1;
                assert!(!is_parsed(&changed), "only the schema refuses {value} for {place}");
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
