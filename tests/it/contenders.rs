//! `ltd-train compare` with published rules, and what it keeps.

use std::path::Path;

use serde_json::{Value, json};

use crate::command::{config, program, refusal_of, run, stdout, text};
use crate::machine::machine;

#[test]
fn all_published_rules_decode_the_text_of_the_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [table, measured] = ["latency.json", "compared.json"].map(|name| folder.path().join(name));
    machine(1.0).write(&table).expect("written");
    let questions = folder.path().join("questions.jsonl");
    let compare = ["compare", "--config", text(&config), "--constant", "1,4"];
    let few = ["--questions", text(&questions), "--limit", "2"];
    let rules = ["--contenders", "all", "--latency", text(&table), "--json", text(&measured)];
    let output = run("ltd-train", &[&compare[..], &few, &rules].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("warning: --latency was measured with device the other"), "{errors}");
    let measured = std::fs::read_to_string(&measured).expect("it is written");
    let measured: Value = serde_json::from_str(&measured).expect("JSON");
    let contenders = measured["contenders"].as_array().expect("rows");
    // Plain decoding, the constant, EAGLE's own choice and the rules.
    assert_eq!(contenders.len(), 2 + 1 + ltd::contenders::ALL.len());
    let eagle = contenders[2]["name"].as_str().expect("a name");
    let sizes = ["39", "47", "49", "55", "59"].map(|size| format!("eagle-auto (size {size})"));
    assert!(sizes.iter().any(|name| name == eagle), "{eagle}");
    for contender in contenders {
        assert_eq!(contender["same_output"], measured["prompts"], "{contender}");
    }
    let depth = |name: &str| {
        let row = contenders.iter().find(|row| row["name"] == name).expect("a row");
        row["mean_depth"].as_f64().expect("a depth")
    };
    assert_eq!(depth("eagle-default"), 7.0);
    assert!((1.0..10.0).contains(&depth("gamma-tune")), "{}", depth("gamma-tune"));
}

#[test]
fn names_are_known_once_and_costs_are_there_where_they_are_weighed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let refused = |arguments: &[&str]| {
        let compare = ["compare", "--config", text(&config)];
        refusal_of(&mut program("ltd-train", &[&compare[..], arguments].concat()))
    };
    let message = refused(&["--contenders", "ddd,gama-tune"]);
    assert!(
        message.contains("--contenders: unknown contender `gama-tune`; expected eagle-default"),
        "{message}"
    );
    let message = refused(&["--contenders", "all,ddd"]);
    assert!(message.contains("--contenders: ddd is there twice"), "{message}");
    let message = refused(&["--contenders", "ddd,smart"]);
    assert!(message.contains("--contenders: smart weighs measured costs: --latency names"), "{message}");
    let message = refused(&["--constant", "1,4", "--constant", "1,4"]);
    assert!(message.contains("depth 1, size 4 takes part twice"), "{message}");
    let message = refused(&["--contenders", "smart", "--latency", "missing.json"]);
    assert!(message.contains("missing.json: "), "{message}");
    let table = folder.path().join("latency.json");
    std::fs::write(&table, "{}").expect("written");
    let message = refused(&["--contenders", "smart", "--latency", text(&table)]);
    assert!(message.contains("latency.json"), "{message}");
}

/// A comparison of few contenders that keeps its cycles: its report.
fn kept(config: &Path, results: &Path, more: &[&str]) -> String {
    let folder = config.parent().expect("a folder");
    let questions = folder.join("questions.jsonl");
    let compare =
        ["compare", "--config", text(config), "--constant", "1,4", "--contenders", "gamma-tune,eagle-auto"];
    let results = ["--questions", text(&questions), "--limit", "4", "--results", text(results)];
    stdout("ltd-train", &[&compare[..], &results, more].concat())
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).expect("results").lines().map(str::to_owned).collect()
}

#[test]
fn a_comparison_is_kept_gone_on_with_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    let told = kept(&config, &results, &[]);
    let whole = lines(&results);
    assert_eq!(whole.len(), 1 + 4);
    // The report is made of the file alone.
    assert_eq!(stdout("ltd-train", &["report", text(&results)]), told);
    assert!(told.contains("How long one waits") && told.contains("| gamma-tune"), "{told}");

    // Every cycle is there: tokens of plain decoding are those of others, and times add up.
    let prompt: Value = serde_json::from_str(&whole[1]).expect("JSON");
    let answers = prompt["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 4);
    for answer in answers {
        assert_eq!(answer["output"], answers[0]["output"]);
        let yielded: usize = answer["cycles"]
            .as_array()
            .expect("cycles")
            .iter()
            .map(|cycle| cycle["accepted"].as_array().expect("tokens").len())
            .sum();
        assert!(yielded + 1 >= answer["output"].as_array().expect("tokens").len(), "{yielded}");
    }
    assert!(answers[2]["state"].is_object() || answers[2]["state"].is_array(), "{}", answers[2]["state"]);

    // Ended within a line: two prompts are there, the rest is measured.
    let cut = whole[..3].join("\n") + "\n" + &whole[3][..40];
    std::fs::write(&results, cut).expect("written");
    let part = stdout("ltd-train", &["report", text(&results)]);
    assert!(part.contains("4 prompts (2 of them not measured)"), "{part}");
    kept(&config, &results, &[]);
    let again = lines(&results);
    assert_eq!((again.len(), &again[..3]), (5, &whole[..3]));
    // Nothing is left to do.
    let told = kept(&config, &results, &[]);
    assert_eq!(lines(&results), again);
    assert_eq!(stdout("ltd-train", &["report", text(&results)]), told);

    let two = stdout("ltd-train", &["report", text(&results), text(&results)]);
    assert_eq!(two.matches("| gamma-tune").count(), 2 * told.matches("| gamma-tune").count() + 1);
    let (_, beside) = two.split_once("Side by side, 1: ").expect("a table");
    let row = beside.lines().find(|line| line.starts_with("| gamma-tune")).expect("a row");
    assert!(!beside.contains("They differ in"), "{beside}");
    let shorter = folder.path().join("shorter.jsonl");
    kept(&config, &shorter, &["--set", "evaluation.max_new_tokens=7", "--set", "engine.threads=1"]);
    let differing = stdout("ltd-train", &["report", text(&results), text(&shorter)]);
    assert!(differing.contains("They differ in ") && differing.contains("max_new_tokens"), "{differing}");
    // Nothing is faster than itself.
    assert!(row.contains("+0.0 % (+0.0 .. +0.0)"), "{row}");
}

#[test]
fn results_of_another_comparison_and_damaged_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    kept(&config, &results, &[]);
    let whole = lines(&results);
    let refused = |arguments: &[&str]| refusal_of(&mut program("ltd-train", arguments));
    let questions = folder.path().join("questions.jsonl");
    let other = ["compare", "--config", text(&config), "--constant", "1,4", "--questions", text(&questions)];
    let other = [&other[..], &["--limit", "4", "--results", text(&results)]].concat();
    let message = refused(&other);
    assert!(message.contains("results.jsonl: it is of another comparison: contenders is "), "{message}");
    let message = refused(&[&other[..], &["--set", "evaluation.max_new_tokens=7"]].concat());
    assert!(message.contains("max_new_tokens is "), "{message}");
    assert_eq!(lines(&results), whole, "nothing is lost");

    let damaged = |lines: &[&str], expected: &str| {
        std::fs::write(&results, lines.join("\n") + "\n").expect("written");
        let message = refused(&["report", text(&results)]);
        assert!(message.contains(expected), "{message}");
    };
    damaged(&[&whole[0], &whole[1][..50], &whole[2]], "line 2 is damaged: ");
    damaged(
        &[&whole[0], &whole[2]],
        "line 2 is damaged: prompt 1 with 4 answers, expected prompt 0 of 4 with 4",
    );
    damaged(&[&whole[0]], "it has no prompt yet");
    damaged(&["{}"], "it holds no results of a comparison");
    damaged(&[r#"{"compared":{"version":1}}"#], "line 1 is damaged: missing field");
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut line: Value = serde_json::from_str(&whole[1]).expect("JSON");
        edit(&mut line["answers"][1]);
        line.to_string()
    };
    let huge = edited(&|answer| answer["cycles"][0]["context"] = json!(u64::MAX));
    damaged(&[&whole[0], &huge], "line 2 is damaged: invalid value");
    let longer = edited(&|answer| answer["cycles"][0]["accepted"] = json!([1, 2, 3, 4]));
    damaged(&[&whole[0], &longer], "line 2 is damaged: an answer is not what its cycles yielded");
    let mut line: Value = serde_json::from_str(&whole[1]).expect("JSON");
    line["answers"][2]["state"] = json!("x");
    std::fs::write(&results, [&whole[0], &line.to_string()].map(|line| line.clone() + "\n").concat())
        .expect("written");
    let message = refused(&[&other[..], &["--contenders", "gamma-tune,eagle-auto"]].concat());
    assert!(message.contains("its last line is damaged: no state of gamma-tune"), "{message}");
    let mut header: Value = serde_json::from_str(&whole[0]).expect("JSON");
    header["compared"]["contenders"] = json!([]);
    damaged(
        &[&header.to_string(), &whole[1]],
        "expected plain decoding as the first contender, and a constant",
    );
    header["compared"]["version"] = json!(2);
    damaged(&[&header.to_string()], "its form is of version 2, expected 1");
    assert!(refused(&["report", "missing.jsonl"]).contains("missing.jsonl: "));
    let message = refused(&["report", text(&results), "--json", text(&results)]);
    assert!(message.contains("--json would replace what is kept there"), "{message}");

    // A part of a header is no comparison: it begins again. Nobody else may write meanwhile.
    std::fs::write(&results, &whole[0][..60]).expect("written");
    kept(&config, &results, &[]);
    assert_eq!(lines(&results).len(), whole.len());
    let writing = std::fs::File::open(&results).expect("a file");
    writing.lock().expect("locked");
    let message = refused(&[&other[..], &["--contenders", "gamma-tune,eagle-auto"]].concat());
    assert!(message.contains("results.jsonl: another process writes to it"), "{message}");
}
