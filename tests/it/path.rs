//! From a configuration to decoded text: train, look at the curves, export, decode.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{TINY, config, program, python, questions, refusal, run, stdout, text, workspace};

#[test]
fn a_configuration_becomes_policies_that_decode() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let run_folder = folder.path().join("run");
    let out = folder.path().join("policies");
    let summary = stdout("ltd-train", &["--config", text(&config), "--run-dir", text(&run_folder)]);
    for name in ["ar", "eagle-default", "best-constant", "pair"] {
        assert!(summary.contains(&format!("| {name} ")), "{summary}");
    }

    // TensorBoard's own reader finds what the JSON lines say.
    let reader = workspace().join("tests/it/read_events.py");
    let stage = run_folder.join("stages/02-depth");
    let output = std::process::Command::new(python()).args([&reader, &stage]).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let curves: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = std::fs::read_to_string(run_folder.join("metrics.jsonl")).expect("metrics");
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let records: Vec<Value> = records.filter(|record| record["stage"] == "02-depth").collect();
    for tag in ["rollout/ep_rew_mean", "train/value_loss", "env/tokens_per_second", "env/draft_depth"] {
        let points =
            curves["scalars"][tag].as_array().unwrap_or_else(|| panic!("{tag} is missing: {curves}"));
        assert_eq!(points.len(), records.len(), "{tag}");
        for (point, record) in points.iter().zip(&records) {
            assert_eq!(point[0], record["timesteps"], "{tag}");
            let (found, expected) =
                (point[1].as_f64().expect("a value"), record["values"][tag].as_f64().expect("a value"));
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{tag}: {found} {expected}");
        }
    }
    let histogram = &curves["histograms"]["env/draft_depths"][0];
    let counted: u64 = records[0]["histograms"]["env/draft_depths"]
        .as_object()
        .expect("counts")
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(histogram[1].as_f64(), Some(counted as f64));

    stdout("ltd-export", &["--run", text(&run_folder), "--stage", "04-depth", "--out", text(&out)]);
    let file = questions(folder.path());
    let arguments = ["--questions", text(&file), "--max-new-tokens", "24", "--json"];
    let decode = |mode: &[&str]| stdout("ltd-decode", &[&TINY[..], mode, &arguments[..]].concat());
    let total =
        |output: &str| serde_json::from_str::<Value>(output.lines().last().expect("lines")).expect("JSON");
    let policy = decode(&["--mode", "policy", "--policy", text(&out)]);
    assert_eq!(total(&policy)["output_ids"], total(&decode(&["--mode", "ar"]))["output_ids"]);
    let warm = ["--temperature", "1", "--top-p", "0.9", "--seed", "3"];
    let sampled = |mode: &[&str]| total(&decode(&[mode, &warm].concat()))["output_ids"].clone();
    assert_eq!(sampled(&["--mode", "policy", "--policy", text(&out)]), sampled(&["--mode", "ar"]));
    assert_ne!(sampled(&["--mode", "ar"]), total(&policy)["output_ids"]);
    let sizes = policy
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["verification_size"].as_u64());
    let table = [2, 4, 6, 8, 12, 16, 24, 32, 48, 64];
    // At depth 0 a tree has 10 candidates; a table entry above that is cut to them.
    assert!(sizes.map(|size| size as usize).all(|size| table.contains(&size) || size == 10), "{policy}");
    assert!(policy.lines().all(|line| !line.contains("\"draft_depth\":6")), "the table ends at depth 5");

    // Where nobody names a number type, it is that of the policies, which nothing measured chooses
    // against.
    let manifest = out.join("manifest.json");
    let written = std::fs::read_to_string(&manifest).expect("the manifest");
    std::fs::write(&manifest, written.replace("\"dtype\": \"f32\"", "\"dtype\": \"bf16\"")).expect("written");
    let steered = |dtype: &[&str]| {
        let models = [&TINY[..4], dtype, &["--mode", "policy", "--policy", text(&out)]].concat();
        total(&stdout("ltd-decode", &[&models[..], &arguments].concat()))["dtype"].clone()
    };
    assert_eq!(steered(&[]), json!({ "chosen": "bf16", "measured": [] }));
    assert_eq!(steered(&["--dtype", "auto"])["chosen"], "bf16");
    assert_eq!(steered(&["--dtype", "f32"])["chosen"], "f32");
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        config(folder.path(), |config| config["stages"]["size"]["total_timesteps"] = json!(1_000_000));
    let run_folder = folder.path().join("run");
    let mut child = program("ltd-train", &["--config", text(&config), "--run-dir", text(&run_folder)])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !run_folder.join("metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < deadline, "no record within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let mut message = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut message).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{message}");
    let advice = format!("go on with: ltd-train --resume {}", run_folder.display());
    assert!(message.contains("interrupted at stage 01-size") && message.contains(&advice), "{message}");

    // A shorter stage, so that the rest takes seconds.
    let resolved = run_folder.join("config.json");
    let mut value: Value =
        serde_json::from_str(&std::fs::read_to_string(&resolved).expect("the configuration")).expect("JSON");
    value["stages"]["size"]["total_timesteps"] = json!(128);
    std::fs::write(&resolved, value.to_string()).expect("written");
    let summary = stdout("ltd-train", &["--resume", text(&run_folder)]);
    assert!(summary.contains("| policy "), "{summary}");
    // A finished run says so again, at once.
    assert_eq!(stdout("ltd-train", &["--resume", text(&run_folder)]), summary);
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let run_folder = folder.path().join("run");
    let arguments =
        ["--config", text(&config), "--run-dir", text(&run_folder), "--dry-run", "--set", "seed=7"];
    let plan = stdout("ltd-train", &arguments);
    for part in [
        "answers end at:\n  2      2             config.json\n",
        "01-size       256 steps of live",
        "04-depth      128 steps of live",
        "\"seed\": 7",
        "\"clip_range\": 0.2",
    ] {
        assert!(plan.contains(part), "{plan}");
    }
    assert!(!run_folder.exists());
}

#[test]
fn programs_explain_themselves() {
    for (name, options) in [
        ("ltd-train", ["--config", "--set", "--run-dir", "--resume", "--dry-run"]),
        ("ltd-export", ["--run", "--stage", "--out", "--help", "--version"]),
        ("ltd-decode", ["--target", "--draft", "--mode", "--policy", "--dump-trees"]),
    ] {
        let help = stdout(name, &["--help"]);
        for option in options {
            assert!(help.contains(option), "{name}: {help}");
        }
        assert!(stdout(name, &["--version"]).starts_with(name));
        assert_eq!(run(name, &["--nonsense"]).status.code(), Some(2));
    }
    assert!(refusal("ltd-train", &[]).contains("--config <FILE>"));
}
