//! Several processes at once, and runs that are killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{config, program, python, refusal, run, stdout, text, workspace};

/// A run of a second or two.
fn short(config: &mut Value) {
    config["stages"] =
        json!({ "size": null, "depth": { "total_timesteps": 128 }, "rounds": 0, "candidates": 1 });
    config["depth"]["ppo"] = json!({ "n_steps": 64 });
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn runs_that_begin_in_the_same_second_have_folders_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tests", "target"] {
        std::os::unix::fs::symlink(workspace().join(name), folder.path().join(name)).expect("a link");
    }
    let config = config(folder.path(), short);
    let seeds = ["1", "2", "3"];
    let children = seeds.map(|seed| {
        let seed = format!("seed={seed}");
        let mut command = program("ltd-train", &["--config", text(&config), "--set", &seed]);
        command.current_dir(folder.path());
        start(command)
    });
    let outputs = children.map(|child| child.wait_with_output().expect("it ends"));
    let mut found = BTreeSet::new();
    for (seed, output) in seeds.iter().zip(&outputs) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let run =
            errors.lines().find_map(|line| line.strip_prefix("run folder ")).expect("the folder is told");
        let run = folder.path().join(run.split(';').next().expect("a name"));
        assert_eq!(json(&run.join("run.json"))["seed"].to_string(), *seed);
        assert_eq!(json(&run.join("config.json"))["seed"].to_string(), *seed);
        assert_eq!(json(&run.join("stages/01-depth/stage.json"))["seed"].to_string(), *seed);
        assert!(run.join("summary.md").is_file());
        found.insert(run);
    }
    assert_eq!(found.len(), 3);
    assert_eq!(folder.path().join("runs").read_dir().expect("the runs").count(), 3);

    // What cannot begin leaves no folder.
    let mut broken = program("ltd-train", &["--config", text(&config), "--set", "engine.device=cuda:77"]);
    assert_eq!(broken.current_dir(folder.path()).output().expect("it starts").status.code(), Some(2));
    assert_eq!(folder.path().join("runs").read_dir().expect("the runs").count(), 3);
}

#[test]
fn a_folder_with_other_files_is_not_taken_for_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = config(folder.path(), short);
    let at = |name: &str| folder.path().join(name);
    let arguments = |run_folder: &Path, last: &'static [&'static str]| {
        let begin = ["--config", text(&file), "--run-dir", text(run_folder)].map(str::to_owned);
        [&begin[..], &last.iter().map(ToString::to_string).collect::<Vec<_>>()].concat()
    };
    // A model's folder, and what another run left.
    for (name, left) in [("model", "config.json"), ("notes", "summary.md")] {
        std::fs::create_dir(at(name)).expect("a folder");
        std::fs::write(at(name).join(left), "mine").expect("written");
        for last in [&[][..], &["--dry-run"]] {
            let arguments = arguments(&at(name), last);
            let said = refusal("ltd-train", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(said.contains("exists and is not empty: choose another --run-dir"), "{said}");
        }
        assert_eq!(std::fs::read_to_string(at(name).join(left)).expect("it stays"), "mine");
        assert_eq!(at(name).read_dir().expect("the folder").count(), 1);
    }
    // The lock of a run that never began is none.
    std::fs::create_dir(at("lock")).expect("a folder");
    std::fs::write(at("lock/run.lock"), "").expect("written");
    stdout("ltd-train", &arguments(&at("lock"), &[]).iter().map(String::as_str).collect::<Vec<_>>());
    // A resumed run goes on as it began.
    let resumed = text(folder.path()).to_owned() + "/lock";
    for option in [&["--dry-run"][..], &["--set", "seed=4"], &["--run-dir", "elsewhere"]] {
        let said = refusal("ltd-train", &[&["--resume", &resumed][..], option].concat());
        assert!(said.contains("cannot be used with") && said.contains("--resume"), "{said}");
    }
}

#[test]
fn a_run_belongs_to_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = config(folder.path(), short);
    let run_folder = folder.path().join("run");
    let begin = |seed: &str| {
        program("ltd-train", &["--config", text(&file), "--run-dir", text(&run_folder), "--set", seed])
    };
    let refused = |output: &Output| {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let in_use = format!("run folder {}: another process is writing this run", text(&run_folder));
        let begun = format!("run folder {}: holds a run already", text(&run_folder));
        assert!(errors.contains(&in_use) || errors.contains(&begun), "{errors}");
    };
    let outputs =
        ["seed=1", "seed=2"].map(|seed| start(begin(seed))).map(|c| c.wait_with_output().expect("it ends"));
    let (good, bad): (Vec<_>, Vec<_>) = (1..).zip(&outputs).partition(|(_, output)| output.status.success());
    assert_eq!((good.len(), bad.len()), (1, 1), "{outputs:?}");
    refused(bad[0].1);
    for name in ["run.json", "config.json", "stages/01-depth/stage.json"] {
        assert_eq!(json(&run_folder.join(name))["seed"], json!(good[0].0), "{name}");
    }

    // A run under way is neither begun anew nor resumed, but its finished stages can be exported.
    std::fs::remove_dir_all(&run_folder).expect("removed");
    let long = config(folder.path(), |config| {
        short(config);
        config["stages"]["rounds"] = json!(1);
        config["stages"]["round"] = json!([{ "train": "depth", "total_timesteps": 10_000_000 }]);
    });
    let mut first = start(program(
        "ltd-train",
        &["--config", text(&long), "--run-dir", text(&run_folder), "--set", "seed=7"],
    ));
    let manifest = run_folder.join("stages/01-depth/stage.json");
    wait_for("the second stage", || run_folder.join("stages/02-depth").is_dir());
    let before = std::fs::read(&manifest).expect("the first stage");
    refused(&run("ltd-train", &["--resume", text(&run_folder)]));
    refused(&begin("seed=8").output().expect("it starts"));
    assert_eq!(std::fs::read(&manifest).expect("the first stage"), before);
    let out = folder.path().join("policies");
    stdout("ltd-export", &["--run", text(&run_folder), "--stage", "01-depth", "--out", text(&out)]);
    assert!(first.try_wait().expect("a process").is_none(), "it goes on");
    first.kill().expect("killed");
    first.wait().expect("it ends");
    // The lock ended with the process.
    let file = run_folder.join("config.json");
    let mut value = json(&file);
    value["stages"]["round"][0]["total_timesteps"] = json!(64);
    std::fs::write(&file, value.to_string()).expect("written");
    stdout("ltd-train", &["--resume", text(&run_folder)]);
}

/// Steps of all scalar curves of a folder, by TensorBoard's own reader.
fn steps(folder: &Path) -> Vec<(String, Vec<u64>)> {
    let reader = workspace().join("tests/it/read_events.py");
    let output = Command::new(python()).args([&reader, folder]).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let curves: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let scalars = curves["scalars"].as_object().expect("curves");
    let of = |points: &Value| -> Vec<u64> {
        points.as_array().expect("points").iter().filter_map(|point| point[0].as_u64()).collect()
    };
    scalars.iter().map(|(tag, points)| (tag.clone(), of(points))).collect()
}

#[test]
fn tensorboard_shows_each_step_of_a_killed_run_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        short(config);
        // A checkpoint each 64 steps or so, for longer than the test takes.
        config["stages"]["depth"]["total_timesteps"] = json!(64_000);
        config["stages"]["candidates"] = json!(1000);
    });
    let run_folder = folder.path().join("run");
    let mut child = start(program("ltd-train", &["--config", text(&config), "--run-dir", text(&run_folder)]));
    let metrics = run_folder.join("metrics.jsonl");
    let lines = || std::fs::read_to_string(&metrics).unwrap_or_default().lines().count();
    wait_for("a few records", || lines() >= 5);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    // As if it had died in the middle of a record, and a checkpoint lay behind it.
    let stage = run_folder.join("stages/01-depth");
    let events = stage.read_dir().expect("the stage").flatten().map(|entry| entry.path());
    let events = events.filter(|path| text(path).contains("tfevents")).collect::<Vec<_>>();
    assert_eq!(events.len(), 1);
    let bytes = std::fs::read(&events[0]).expect("events");
    std::fs::write(&events[0], [&bytes[..], &bytes[..bytes.len() / 3]].concat()).expect("written");
    std::fs::write(&metrics, std::fs::read_to_string(&metrics).expect("lines") + "{\"stage\": \"01-")
        .expect("written");

    let file = run_folder.join("config.json");
    let mut value = json(&file);
    value["stages"]["depth"]["total_timesteps"] = json!(64 * (lines() + 4));
    std::fs::write(&file, value.to_string()).expect("written");
    stdout("ltd-train", &["--resume", text(&run_folder)]);
    let records: Vec<Value> = std::fs::read_to_string(&metrics)
        .expect("lines")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a whole record"))
        .collect();
    for (folder, name) in [(&stage, "01-depth"), (&run_folder, "")] {
        let found = steps(folder);
        assert!(!found.is_empty());
        for (tag, steps) in found {
            let records = records.iter().filter(|record| record["stage"] == name);
            let recorded = records.filter(|record| record["values"].get(&tag).is_some());
            let recorded: Vec<_> = recorded.filter_map(|record| record["timesteps"].as_u64()).collect();
            assert_eq!(steps, recorded, "{tag}");
            assert!(steps.is_sorted_by(|a, b| a < b), "{tag}: {steps:?}");
        }
    }
}
