//! The command line, on the tiny pair.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ltd-trace"))
        .args(arguments)
        .current_dir(workspace())
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn refuse(arguments: &[&str], message: &str) {
    let output = run(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains(message), "{arguments:?}: {error}");
}

/// A configuration of the tiny pair with some prompts.
fn config(folder: &Path) -> (String, String) {
    let questions = folder.join("questions.jsonl");
    let lines =
        ["The cat sat", "Once upon a time", "In the beginning"].iter().enumerate().map(|(id, words)| {
            let ids: Vec<u32> = words.bytes().map(|byte| u32::from(byte) + 4).collect();
            format!("{{\"question_id\": {id}, \"token_ids\": {ids:?}}}\n")
        });
    std::fs::write(&questions, lines.collect::<String>()).expect("written");
    let questions = questions.to_str().expect("a path").to_owned();
    let set = |skip: usize| format!(r#"{{"file": {questions:?}, "skip": {skip}, "take": 1}}"#);
    let pair = "tests/fixtures/tiny-pair";
    let text = format!(
        r#"{{"engine": {{"target": "{pair}/target", "draft": "{pair}/draft", "dtype": "f32", "max_length": 300}},
            "prompts": {{"train": {}, "validation": {}, "evaluation": {}}}, "max_new_tokens": 20}}"#,
        set(0),
        set(1),
        set(2)
    );
    let path = folder.join("config.json");
    std::fs::write(&path, text).expect("written");
    (path.to_str().expect("a path").to_owned(), questions)
}

#[test]
fn from_prompts_to_what_a_policy_could_gain() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, questions) = config(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (trace, rest, all, latency) = (path("trace"), path("rest"), path("all"), path("latency.json"));
    let record = |limit: &str, out: &str, skip: &str| {
        succeed(&[
            "record",
            "--config",
            &config,
            "--questions",
            &questions,
            "--limit",
            limit,
            "--skip",
            skip,
            "--out",
            out,
        ])
    };
    record("1", &trace, "0");
    // The second call goes on where the first one ended.
    record("2", &trace, "0");
    record("1", &rest, "2");
    let merged = succeed(&["merge", "--out", &all, &trace, &rest]);
    assert!(merged.contains("2 of 2 prompts") && merged.contains("1 of 1 prompts"), "{merged}");

    // Beside other tests a forward of the tiny pair can take ten times as long as alone.
    let table = (0..8).find_map(|_| {
        let output = run(&["latency", "--config", &config, "--repeats", "5", "--out", &latency]);
        let error = text(&output.stderr);
        assert!(output.status.success() || error.contains("quiet machine"), "{error}");
        output.status.success().then(|| text(&output.stdout))
    });
    let table = table.expect("a quiet moment");
    assert!(table.contains("| verification size | verify ms |") && table.contains("error on 60 live cycles"));

    let oracle = ["oracle", "--trace", all.as_str(), "--latency", latency.as_str()];
    let tables = succeed(&oracle);
    assert!(tables.contains("| best constant: depth") && tables.contains("3 prompts"), "{tables}");
    let json = succeed(&[&oracle[..], &["--json"]].concat());
    let reports: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let number = |name: &str| reports[0][name].as_f64().expect("a number");
    let constant = reports[0]["best_constant"]["tokens_per_second"].as_f64().expect("a number");
    assert!(number("clairvoyant_size") >= constant && number("clairvoyant_depth") >= constant, "{json}");
    assert!(number("clairvoyant") >= number("clairvoyant_depth").max(number("clairvoyant_size")), "{json}");

    // Bad input, with what was made.
    let written = std::fs::read_to_string(&latency).expect("a table");
    let other = written.replacen("\"beam_width\":10", "\"beam_width\":4", 1);
    std::fs::write(path("other.json"), other).expect("written");
    refuse(&["oracle", "--trace", &all, "--latency", &path("other.json")], "its beam width is 10");
    refuse(
        &[
            "record",
            "--config",
            &config,
            "--set",
            "engine.beam_width=4",
            "--questions",
            &questions,
            "--out",
            &all,
        ],
        "is a trace whose beam_width is 10, not 4",
    );
    let broken =
        std::fs::read_to_string(&latency).expect("a table").replacen("\"version\":1", "\"version\":7", 1);
    std::fs::write(path("broken.json"), broken).expect("written");
    refuse(&["oracle", "--trace", &all, "--latency", &path("broken.json")], "version 7");
    refuse(&["record", "--config", &config, "--questions", "nowhere.jsonl", "--out", &all], "nowhere.jsonl");
    refuse(
        &["latency", "--config", &config, "--set", "engine.max_length=90", "--out", &latency],
        "leave no room",
    );
}
