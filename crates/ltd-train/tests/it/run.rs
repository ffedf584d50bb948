//! Whole runs on the tiny pair.

use std::path::Path;
use std::time::Duration;

use ltd_policy::{Choice, ChoiceEntry, Manifest, Policy, PolicyEntry};
use ltd_run::{Interrupt, Progress, TrainConfig};
use ltd_train::{Ending, Trainer, metrics::tags};
use serde_json::{Value, json};

use crate::tiny::config;

fn parse(value: &Value) -> TrainConfig {
    TrainConfig::parse(&value.to_string(), Path::new("test.json"), &[]).expect("a configuration")
}

fn finish(value: &Value, folder: &Path) -> String {
    let trainer = Trainer::create(parse(value), folder, Progress::Silent, Interrupt::default());
    match trainer.expect("a run").learn().expect("it finishes") {
        Ending::Finished { summary } => summary,
        Ending::Interrupted { place } => panic!("interrupted at {place}"),
    }
}

fn records(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[test]
fn a_run_leaves_policies_curves_and_a_comparison() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    let summary = finish(&config(folder.path()), &run);

    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(run.join("summary.json")).expect("summary"))
            .expect("JSON");
    let contenders = json["contenders"].as_array().expect("contenders");
    let names: Vec<_> = contenders.iter().map(|row| row["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["ar", "eagle-default", "best-constant", "copy-rule", "pair"]);
    for row in contenders {
        assert!(summary.contains(row["name"].as_str().expect("a name")), "{summary}");
        assert!(
            row["tokens_per_second"].as_f64() > Some(0.0) && row["speedup"].as_f64() > Some(0.0),
            "{row}"
        );
        let shares = ["draft_share", "verify_share", "policy_share"];
        let sum: f64 = shares.iter().map(|share| row[share].as_f64().expect("a share")).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{row}");
        // The contract, once more: in f32 every contender writes what the target writes.
        assert_eq!(row["same_output"], json!(2), "{row}");
    }
    assert_eq!(contenders[1]["mean_depth"], json!(4.0));
    assert_eq!(std::fs::read_to_string(run.join("summary.md")).expect("summary"), summary);
    let grid = json["grid"].as_array().expect("the grid");
    let (rules, constants): (Vec<_>, Vec<_>) = grid.iter().partition(|point| point["copies"].is_object());
    assert_eq!(constants.len(), 4, "depths 0 and 2, sizes 4 and 16; at depth 0 there are 10 candidates");
    assert_eq!(rules.len(), 15, "five matches, three chains");
    assert_eq!(json["copy_rule"]["copies"], rules[0]["copies"]);
    assert_eq!(json["best_constant"]["depth"], constants[0]["depth"]);

    for (stage, learned) in
        [("01-size", "size"), ("02-depth", "depth"), ("03-size", "size"), ("04-depth", "depth")]
    {
        let path = run.join("stages").join(stage);
        let manifest = Manifest::load(&path.join("stage.json")).expect("a manifest");
        let policy = manifest.load_policy(&path).expect("policies");
        let Policy::Pair { depth, size, .. } = policy else { panic!("a pair") };
        let learned = if learned == "size" { size } else { depth };
        assert!(matches!(learned, Choice::Learned(_)), "{stage}");
        let left: Vec<_> = std::fs::read_dir(&path).expect("the folder").flatten().collect();
        assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("candidate")));
    }
    let manifest = Manifest::load(&run.join("stages/01-size/stage.json")).expect("a manifest");
    let constant = ChoiceEntry::Constant { value: 4 };
    assert!(matches!(&manifest.policy, PolicyEntry::Pair { depth, .. } if *depth == constant));
    assert_eq!((manifest.objective.as_str(), manifest.dtype.as_str()), ("acceptance", "f32"));

    let records = records(&run);
    let last = records.iter().rfind(|record| record["stage"] == "02-depth").expect("a record");
    assert_eq!(last["timesteps"], json!(256));
    // The reward here is `acceptance`, which compares with nothing, and nothing is predicted.
    let elsewhere = |tag: &&str| *tag == tags::LAMBDA || tag.starts_with("predictor/");
    for tag in tags::ALL.into_iter().filter(|tag| !elsewhere(tag)) {
        let somewhere = records
            .iter()
            .any(|record| record["values"].get(tag).is_some() || record["histograms"].get(tag).is_some());
        assert!(somewhere, "{tag} is never recorded");
    }
    let again = Trainer::resume(&run, Progress::Silent, Interrupt::default()).expect("a run").learn();
    assert_eq!(again.expect("a finished run"), Ending::Finished { summary });
    let error = Trainer::create(parse(&config(folder.path())), &run, Progress::Silent, Interrupt::default());
    let error = error.err().expect("a folder in use").to_string();
    assert!(error.contains("holds a run already: resume it with --resume"), "{error}");
}

#[test]
fn a_sampled_run_learns_and_measures_on_sampled_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = config(folder.path());
    value["stages"] =
        json!({ "size": { "total_timesteps": 128 }, "depth": null, "rounds": 0, "candidates": 1 });
    let run = |name: &str, sampling: Value| {
        let mut value = value.clone();
        value["sampling"] = sampling;
        let run = folder.path().join(name);
        let text = finish(&value, &run);
        let summary = std::fs::read_to_string(run.join("summary.json")).expect("summary");
        let summary: Value = serde_json::from_str(&summary).expect("JSON");
        let learned_on: Vec<Value> = records(&run)
            .iter()
            .filter(|record| record["stage"] != "")
            .map(|record| record["values"][tags::ACCEPTANCE_LENGTH].clone())
            .collect();
        (text, summary, learned_on)
    };
    let warm = json!({ "temperature": 1.0, "top_p": 0.9, "top_k": null });
    let (text, summary, learned_on) = run("warm", warm.clone());
    assert_eq!(summary["sampling"], warm);
    assert!(text.contains("2 prompts, temperature 1, top-p 0.9, f32, "), "{text}");
    // All contenders draw with the same numbers, and thus decode the same text.
    for row in summary["contenders"].as_array().expect("contenders") {
        assert_eq!(row["same_output"], json!(2), "{row}");
    }
    let (text, greedy, greedily) = run("greedy", json!({}));
    assert!(text.contains("2 prompts, greedy, f32, "), "{text}");
    assert_ne!(learned_on, greedily);
    let measured = |summary: &Value| summary["contenders"][1]["acceptance_length"].clone();
    assert_ne!(measured(&summary), measured(&greedy));
}

/// After so many, a run is left alone.
const MOST_INTERRUPTIONS: u64 = 20;

#[test]
fn a_run_that_is_interrupted_again_and_again_ends_like_an_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = config(folder.path());
    // Sampled: a resumed run must draw the same tokens.
    value["sampling"] = json!({ "temperature": 1.0 });
    value["stages"]["round"] = json!([{ "train": "source", "total_timesteps": 128 }]);
    // Nearly all of the last rollout is beyond the stage's steps, and is taken to its end
    // nevertheless.
    value["stages"]["size"]["total_timesteps"] = json!(130);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    finish(&value, &whole);

    let mut interruptions = 0;
    loop {
        let interrupt = Interrupt::default();
        let after = interrupt.clone();
        let delay = Duration::from_millis(200 * (1 + interruptions));
        let trainer = if interruptions == 0 {
            Trainer::create(parse(&value), &broken, Progress::Silent, interrupt)
        } else {
            Trainer::resume(&broken, Progress::Silent, interrupt)
        };
        let mut trainer = trainer.expect("a run");
        // The end of a run takes longer than its stages: it is left alone some day.
        if interruptions == MOST_INTERRUPTIONS {
            assert!(broken.join("stages/02-depth/stage.json").is_file(), "it does not get on");
        } else {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                after.request();
            });
        }
        match trainer.learn().expect("it runs") {
            Ending::Finished { .. } => break,
            Ending::Interrupted { .. } => interruptions += 1,
        }
    }
    assert!(interruptions > 1, "it was interrupted {interruptions} times only");
    for file in [
        "01-size/size.safetensors",
        "02-depth/depth.safetensors",
        "02-depth/networks.safetensors",
        "03-source/source.safetensors",
    ] {
        let read = |run: &Path| std::fs::read(run.join("stages").join(file)).expect("a file");
        assert!(read(&whole) == read(&broken), "{file} differs after {interruptions} interruptions");
    }
    // Curves have no gap and no doublet, and equal values where these do not depend on the clock.
    let curve = |run: &Path| -> Vec<(Value, Value, Value, Value)> {
        let picked = records(run).into_iter().filter(|record| record["stage"] != "").map(|record| {
            let values = &record["values"];
            let tag = |tag: &str| values[tag].clone();
            (
                record["stage"].clone(),
                record["timesteps"].clone(),
                tag(tags::LOSS),
                tag(tags::ACCEPTANCE_LENGTH),
            )
        });
        picked.collect()
    };
    assert_eq!(curve(&whole), curve(&broken));
}

/// A run that was interrupted before its first step, and still holds its folder.
fn interrupted_at_once(value: &Value, run: &Path) -> Trainer {
    let interrupt = Interrupt::default();
    interrupt.request();
    let mut trainer = Trainer::create(parse(value), run, Progress::Silent, interrupt).expect("a run");
    assert!(matches!(trainer.learn(), Ok(Ending::Interrupted { .. })));
    trainer
}

#[test]
fn a_damaged_checkpoint_and_other_inputs_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = config(folder.path());
    let run = folder.path().join("run");
    let trainer = interrupted_at_once(&value, &run);
    let second = Trainer::resume(&run, Progress::Silent, Interrupt::default()).err().expect("a run in use");
    assert!(second.is_usage() && second.to_string().contains("another process is writing this run"));
    drop(trainer);
    let resume = || {
        let error = Trainer::resume(&run, Progress::Silent, Interrupt::default()).err().expect("an error");
        assert!(error.is_usage());
        error.to_string()
    };
    let checkpoint = run.join("checkpoint.safetensors");
    let bytes = std::fs::read(&checkpoint).expect("a checkpoint");
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).expect("written");
    assert!(resume().contains("checkpoint.safetensors: not a checkpoint of this run"));
    std::fs::write(&checkpoint, &bytes).expect("written");

    let provenance = run.join("run.json");
    let text = std::fs::read_to_string(&provenance).expect("provenance");
    let mut changed: Value = serde_json::from_str(&text).expect("JSON");
    changed["draft"]["sha256"] = json!("0");
    std::fs::write(&provenance, changed.to_string()).expect("written");
    assert!(resume().contains("was begun with another draft"));
    changed.as_object_mut().expect("an object").remove("prompts");
    std::fs::write(&provenance, changed.to_string()).expect("written");
    assert!(resume().contains("run.json does not say what the run began with"));
    std::fs::write(&provenance, text).expect("written");

    // Other values: all of them are named. How long a stage takes may change.
    let resolved = run.join("config.json");
    let text = std::fs::read_to_string(&resolved).expect("the configuration");
    let mut changed: Value = serde_json::from_str(&text).expect("JSON");
    changed["stages"]["size"]["total_timesteps"] = json!(128);
    std::fs::write(&resolved, changed.to_string()).expect("written");
    drop(Trainer::resume(&run, Progress::Silent, Interrupt::default()).expect("a run"));
    changed["size"]["sizes"] = json!([4, 8]);
    changed["seed"] = json!(5);
    std::fs::write(&resolved, changed.to_string()).expect("written");
    let found = resume();
    for problem in ["seed: was 1 when the run began, is 5 now", "size.sizes: was ["] {
        assert!(found.contains(problem) && !found.contains("total_timesteps"), "{found}");
    }
    std::fs::write(&resolved, text).expect("written");

    // Other questions under the same name, and the same ones under another.
    let questions = folder.path().join("questions.jsonl");
    let text = std::fs::read_to_string(&questions).expect("questions");
    std::fs::write(&questions, text.replacen("[88,", "[89,", 1)).expect("written");
    assert!(resume().contains("prompts.train: "));
    let moved = folder.path().join("moved.jsonl");
    std::fs::write(&moved, &text).expect("written");
    let mut elsewhere: Value =
        serde_json::from_str(&std::fs::read_to_string(&resolved).expect("the configuration")).expect("JSON");
    for set in ["train", "validation", "evaluation"] {
        elsewhere["prompts"][set]["file"] = json!(moved);
    }
    std::fs::write(&resolved, elsewhere.to_string()).expect("written");
    drop(Trainer::resume(&run, Progress::Silent, Interrupt::default()).expect("a run"));

    assert!(
        Trainer::resume(folder.path(), Progress::Silent, Interrupt::default())
            .err()
            .expect("no run")
            .to_string()
            .contains("is not a run: it has no run.json")
    );
}

#[test]
fn a_run_that_began_before_there_were_merged_trees_goes_on_without_them() {
    let folder = tempfile::tempdir().expect("a folder");
    // Its preset has them.
    let value = config(folder.path());
    let run = folder.path().join("run");
    drop(interrupted_at_once(&value, &run));
    let without = |file: &str, path: &[&str]| {
        let file = run.join(file);
        let mut written: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("a file")).expect("JSON");
        let source = path.iter().fold(&mut written, |value, key| &mut value[*key]);
        let removed = source.as_object_mut().expect("an object").remove("merged");
        assert_eq!(removed, Some(json!(12)), "{}", file.display());
        std::fs::write(&file, written.to_string()).expect("written");
    };
    without("config.json", &["source"]);
    without("run.json", &["config", "source"]);
    drop(Trainer::resume(&run, Progress::Silent, Interrupt::default()).expect("it goes on"));
}

#[test]
fn the_documentation_defines_exactly_the_recorded_tags() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md");
    let documented: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `").and_then(|rest| rest.split_once('`')).map(|(tag, _)| tag))
        .collect();
    assert_eq!(documented, tags::ALL);
}
