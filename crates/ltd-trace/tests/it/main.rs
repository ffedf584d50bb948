//! The command line, on the tiny pair.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ltd_engine::fingerprint;
use ltd_policy::{DecisionCost, GridPoint, LatencyIdentity, LatencyTable, Surface};

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

/// A table of a machine of our own, for the tiny pair.
fn table() -> LatencyTable {
    let surface = |counts: &[usize], ms: &dyn Fn(f64) -> f64| {
        let points = [8, 200].into_iter().flat_map(|context| {
            counts.iter().map(move |&count| GridPoint::new(count, context, vec![ms(count as f64) as f32; 3]))
        });
        Surface { points: points.collect() }
    };
    let pair = workspace().join("tests/fixtures/tiny-pair");
    let sha256 = |part: &str| fingerprint(&pair.join(part)).expect("a fingerprint").sha256;
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: sha256("target"),
            draft: sha256("draft"),
            dtype: "f32".into(),
            device: "cpu".into(),
            driver: None,
            threads: 1,
            machine: "test".into(),
            beam_width: 10,
        },
        root: surface(&[1, 13], &|rows| 1.0 + 0.1 * rows),
        level: surface(&[1, 8], &|depth| 1.0 + 0.01 * depth),
        verify: surface(&[1, 8, 64], &|size| 9.0 + 0.1 * size),
        decision: DecisionCost { depth_us: 10.0, size_us: 20.0 },
        held_out_error: None,
    }
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

    // Beside other programs a forward of the tiny pair can take ten times as long as alone: then this is said.
    let output = run(&["latency", "--config", &config, "--repeats", "5", "--out", &latency]);
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        assert!(
            found.contains("| verification size | verify ms |") && found.contains("error on 60 live cycles")
        );
        LatencyTable::read(Path::new(&latency)).expect("a table");
    } else {
        assert!(output.status.code() == Some(1) && error.contains("quiet machine"), "{error}");
        assert!(!Path::new(&latency).exists(), "half a table");
    }
    table().write(Path::new(&latency)).expect("written");

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
