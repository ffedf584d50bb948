//! Where there is nothing to measure or to learn from, nothing ships, and it is said.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{config, run, stdout, text, workspace};
use crate::machine::machine;

/// The tiny target, whose answers end at any of these tokens.
fn target_that_ends_at(tokens: &[u32], folder: &Path) -> PathBuf {
    let target = folder.join("target");
    std::fs::create_dir_all(&target).expect("a folder");
    for entry in std::fs::read_dir(workspace().join("tests/fixtures/tiny-pair/target")).expect("the pair") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), target.join(entry.file_name())).expect("a copy");
    }
    let generation = json!({ "eos_token_id": tokens });
    std::fs::write(target.join("generation_config.json"), generation.to_string()).expect("written");
    target
}

/// Standard error of a program that must fail, though its input is right.
fn failure(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = said.clone() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{name} {arguments:?}: {all}");
    assert!(
        !all.contains("NaN") && !all.contains("panicked") && !all.contains("the package will use"),
        "{all}"
    );
    said
}

#[test]
fn answers_that_end_at_once_are_neither_learned_from_nor_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = target_that_ends_at(&(0..260).collect::<Vec<_>>(), folder.path());
    let short = |config: &mut Value| {
        config["engine"]["target"] = json!(target);
        config["size"] = json!({ "ppo": { "n_steps": 32 } });
        config["stages"] = json!({ "size": { "total_timesteps": 64 }, "depth": null, "rounds": 0 });
    };
    let config = config(folder.path(), short);
    let (at, json) = (folder.path().join("run"), folder.path().join("compared.json"));
    let found = failure("ltd-train", &["--config", text(&config), "--run-dir", text(&at)]);
    assert!(found.contains("before their first token: there is nothing to learn from"), "{found}");
    assert!(!found.contains("--resume"), "it would end alike: {found}");
    assert!(!at.join("selected.json").exists() && !at.join("summary.json").exists());

    let found = failure("ltd-train", &["compare", "--config", text(&config), "--json", text(&json)]);
    let expected = "comparison: the target ended its answer to each of 2 prompts before the first token";
    assert!(found.contains(expected), "{found}");
    let found = failure(
        "ltd-bench",
        &["engine", "--config", text(&config), "--json", text(&json), "--context", "32", "--tokens", "1"],
    );
    assert!(found.contains("nothing to measure"), "{found}");
    assert!(!json.exists());

    // What is recorded of such answers has no position.
    let questions = folder.path().join("questions.jsonl");
    let (trace, latency) = (folder.path().join("trace"), folder.path().join("latency.json"));
    let record =
        ["record", "--config", text(&config), "--questions", text(&questions), "--out", text(&trace)];
    stdout("ltd-trace", &record);
    machine(1.0).write(&latency).expect("written");
    let output = run("ltd-trace", &["oracle", "--trace", text(&trace), "--latency", text(&latency)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the trace has no position to replay"), "{said}");
}

/// The first token of the answer to each of the ten questions.
fn first_tokens(config: &Path, folder: &Path) -> Vec<u32> {
    let questions = folder.join("questions.jsonl");
    let value: Value = serde_json::from_slice(&std::fs::read(config).expect("a file")).expect("JSON");
    let part = |name: &str| value["engine"][name].as_str().expect("a path").to_owned();
    let output = stdout(
        "ltd-decode",
        &[
            "--target",
            &part("target"),
            "--draft",
            &part("draft"),
            "--dtype",
            "f32",
            "--mode",
            "ar",
            "--max-new-tokens",
            "1",
            "--json",
            "--questions",
            text(&questions),
        ],
    );
    let answers = output.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let answers = answers.filter(|line| line["question_id"].is_string());
    answers.map(|line| line["output_ids"][0].as_u64().expect("a token") as u32).collect()
}

#[test]
fn a_selection_without_a_cycle_ships_nothing_and_one_prompt_with_any_is_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = config(folder.path(), |_| ());
    let first = first_tokens(&plain, folder.path());
    assert_eq!(first.len(), 10);
    // Answers that begin with the first question's token end at once, others do not.
    let (ending, going): (Vec<usize>, Vec<usize>) =
        (0..first.len()).partition(|&question| first[question] == first[0]);
    assert!(going.len() >= 5, "{first:?}");
    let target = target_that_ends_at(&first[..1], folder.path());
    let lines = std::fs::read_to_string(folder.path().join("questions.jsonl")).expect("questions");
    let lines: Vec<&str> = lines.lines().collect();
    let set = |name: &str, questions: &[usize]| {
        let file = folder.path().join(name);
        let chosen = questions.iter().map(|&question| lines[question].to_owned() + "\n");
        std::fs::write(&file, chosen.collect::<String>()).expect("written");
        json!({ "file": file })
    };
    let run_with = |name: &str, validation: Value, evaluation: Value| {
        let path = config(folder.path(), |config| {
            config["engine"]["target"] = json!(target);
            config["size"] = json!({ "ppo": { "n_steps": 32 } });
            config["stages"] = json!({ "size": { "total_timesteps": 64 }, "depth": null, "rounds": 0 });
            config["prompts"] = json!({
                "train": set("train", &going[..2]), "validation": validation, "evaluation": evaluation
            });
        });
        (path, folder.path().join(name))
    };
    let (path, at) = run_with("empty", set("validation", &ending[..1]), set("evaluation", &going[2..4]));
    let found = failure("ltd-train", &["--config", text(&path), "--run-dir", text(&at)]);
    assert!(
        found.contains("01-size validation: the target ended its answer to each of 1 prompts"),
        "{found}"
    );
    assert!(!at.join("selected.json").exists() && !at.join("summary.json").exists());

    // One prompt of each set has an answer: what is measured is measured on that.
    let (validation, evaluation) = ([ending[0], going[2]], [going[3], going[4]]);
    let (path, at) = run_with("some", set("validation", &validation), set("evaluation", &evaluation));
    let summary = stdout("ltd-train", &["--config", text(&path), "--run-dir", text(&at)]);
    assert!(summary.contains("Ships: ") && !summary.contains("NaN"), "{summary}");
    let grid = std::fs::read_to_string(at.join("summary.json")).expect("a summary");
    let grid: Value = serde_json::from_str(&grid).expect("JSON");
    for point in grid["grid"].as_array().expect("constants") {
        assert!(point["tokens_per_second"].as_f64() > Some(0.0), "{point}");
    }
}
