//! Runs of several processes, as a launcher starts them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::replay::{record, replayed, table};
use crate::tiny;

/// A run on recorded cycles, whose rewards do not depend on the clock.
fn replay_config(folder: &Path) -> Value {
    let mut value = replayed(folder);
    record(folder, &value, 8);
    table(&value, 64, 0.1).write(&folder.join("latency.json")).expect("written");
    value["engine"]["threads"] = json!(1);
    value["replay"]["noise"] = json!(true);
    value["stages"]["predictor"] = json!({ "epochs": 2, "net_arch": [16] });
    value["stages"]["imitation"] = json!({ "epochs": 2 });
    value
}

fn write(folder: &Path, name: &str, value: &Value) -> String {
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, value.to_string()).expect("written");
    path.display().to_string()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Starts `ltd-train` as ranks of one machine; `change` is what each is started with besides.
fn start(size: usize, change: impl Fn(usize, &mut Command)) -> Vec<Child> {
    let port = free_port().to_string();
    let ranks = (0..size).map(|rank| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ltd-train"));
        command
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .env("LTD_TIMEOUT", "60")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(rank, &mut command);
        command.spawn().expect("it starts")
    });
    ranks.collect()
}

fn ends(ranks: Vec<Child>) -> Vec<Output> {
    ranks.into_iter().map(|rank| rank.wait_with_output().expect("it ends")).collect()
}

fn errors(outputs: &[Output]) -> Vec<String> {
    outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).collect()
}

fn run(size: usize, arguments: &[&str]) {
    let outputs = ends(start(size, |_, command| _ = command.args(arguments)));
    assert!(outputs.iter().all(|output| output.status.success()), "{:?}", errors(&outputs));
    assert!(outputs[1..].iter().all(|output| output.stdout.is_empty()), "one rank speaks for all");
}

/// What the run left that does not depend on the clock: policies and networks of all stages.
fn left(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let stages = std::fs::read_dir(run.join("stages")).expect("stages").flatten();
    let files = stages.flat_map(|stage| std::fs::read_dir(stage.path()).expect("a stage").flatten());
    let files =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    files
        .map(|path| {
            (
                path.display().to_string().replace(&*run.to_string_lossy(), ""),
                std::fs::read(&path).expect("a file"),
            )
        })
        .collect()
}

#[test]
fn ranks_learn_the_same_each_time_and_a_killed_group_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = write(folder.path(), "config", &replay_config(folder.path()));
    let place = |name: &str| folder.path().join(name);
    let arguments = |run: &str| -> Vec<String> {
        ["--config", &config, "--share-device", "--auto-resume", "--run-dir"]
            .map(str::to_owned)
            .into_iter()
            .chain([place(run).display().to_string()])
            .collect()
    };
    let start_run = |size: usize, run: &str| start(size, |_, command| _ = command.args(arguments(run)));
    let finish = |size: usize, run: &str| {
        let outputs = ends(start_run(size, run));
        assert!(outputs.iter().all(|output| output.status.success()), "{:?}", errors(&outputs));
        let spoken = outputs[1..].iter().any(|output| !output.stdout.is_empty());
        assert!(!spoken, "one rank speaks for all: {:?}", errors(&outputs));
    };
    let mut plan = arguments("plan");
    plan.push("--dry-run".to_owned());
    run(2, &plan.iter().map(String::as_str).collect::<Vec<_>>());
    // Without a launcher there is one rank.
    let alone = Command::new(env!("CARGO_BIN_EXE_ltd-train")).args(arguments("alone")).output();
    assert!(alone.expect("it runs").status.success());
    finish(1, "one");
    let expected = left(&place("alone"));
    assert!(expected.len() > 6, "{:?}", expected.keys());
    assert!(left(&place("one")) == expected, "one rank is what no launcher is");

    finish(2, "two");
    let expected = left(&place("two"));
    assert!(expected != left(&place("alone")), "two ranks see more cycles");
    let curves = std::fs::read_to_string(place("two").join("metrics.jsonl")).expect("curves");
    for rank in 0..2 {
        assert!(curves.contains(&format!("ranks/{rank}/steps_per_second")), "a rank without a pace");
    }
    assert!(!curves.contains("ranks/2/"));
    for (kill, victim) in [(400, 0), (900, 1), (1500, 0), (2200, 1)] {
        let name = format!("killed {victim} after {kill}");
        let mut ranks = start(2, |_, command| _ = command.args(arguments(&name)).env("LTD_TIMEOUT", "5"));
        std::thread::sleep(Duration::from_millis(kill));
        ranks[victim].kill().expect("it is there, or has ended");
        let outputs = ends(ranks);
        let (survivor, errors) = (1 - victim, errors(&outputs));
        if outputs[survivor].status.success() {
            assert!(
                left(&place(&name)) == expected,
                "{name}: it was over, and is something else: {errors:?}"
            );
            continue;
        }
        let Some(code) = outputs[victim].status.code() else {
            let status = outputs[survivor].status;
            assert_eq!(status.code(), Some(1), "{errors:?}");
            let told = errors[survivor].contains(&format!("rank {survivor}: "));
            let named = errors[survivor].contains(&format!("rank {victim} "))
                || errors[survivor].contains("the store of the ranks at 127.0.0.1");
            assert!(told && named, "{errors:?}");
            finish(2, &name);
            assert!(left(&place(&name)) == expected, "{name}: it learned something else");
            continue;
        };
        assert_eq!(code, 0, "it was over before it was killed: {errors:?}");
    }
}

#[test]
fn ranks_record_what_one_process_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = replayed(folder.path());
    table(&value, 64, 0.1).write(&folder.path().join("latency.json")).expect("written");
    value["engine"]["threads"] = json!(1);
    value["replay"] = json!({ "latency": folder.path().join("latency.json") });
    value["stages"] =
        json!({ "size": { "total_timesteps": 128 }, "depth": null, "rounds": 0, "candidates": 1 });
    let config = write(folder.path(), "config", &value);
    let recorded = |ranks: usize| {
        let path = folder.path().join(ranks.to_string());
        run(ranks, &["--config", &config, "--share-device", "--run-dir", &path.display().to_string()]);
        let entries = std::fs::read_dir(&path).expect("the run").flatten();
        let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.contains("ranks")), "parts are left: {names:?}");
        let files = std::fs::read_dir(path.join("trace")).expect("a trace").flatten();
        let files = files.map(|file| (file.file_name(), std::fs::read(file.path()).expect("a file")));
        files.collect::<BTreeMap<_, _>>()
    };
    let expected = recorded(1);
    assert!(expected.values().any(|bytes| bytes.len() > 10_000), "trees");
    assert!(recorded(3) == expected, "another trace");
}

#[test]
fn ranks_share_the_prompts_of_a_live_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = tiny::config(folder.path());
    value["engine"]["threads"] = json!(1);
    let config = write(folder.path(), "config", &value);
    let path = folder.path().join("run");
    run(3, &["--config", &config, "--share-device", "--run-dir", &path.display().to_string()]);
    let summary = std::fs::read_to_string(path.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["prompts"], json!(2), "all of them, each once");
    for row in summary["contenders"].as_array().expect("contenders") {
        assert_eq!(row["same_output"], json!(2), "{row}");
    }
    let curves = std::fs::read_to_string(path.join("metrics.jsonl")).expect("curves");
    let last = curves.lines().rfind(|line| line.contains("\"02-depth\"")).expect("a record");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["timesteps"], json!(384), "a rollout is of all ranks: 3 x 128");
}

#[test]
fn a_dead_rank_is_noticed_by_those_who_are_busy() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = tiny::config(folder.path());
    value["engine"]["threads"] = json!(1);
    // One rollout would take minutes.
    value["size"] = json!({ "ppo": { "n_steps": 1 << 16, "n_envs": 1, "batch_size": 64 } });
    let config = write(folder.path(), "config", &value);
    for victim in [0, 1] {
        let path = folder.path().join(format!("without-{victim}")).display().to_string();
        let arguments = ["--config", &config, "--share-device", "--run-dir", &path];
        let mut ranks = start(3, |_, command| _ = command.args(arguments).env("LTD_TIMEOUT", "5"));
        let begun = Instant::now();
        while !Path::new(&path).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "they do not begin");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(4));
        let begun = Instant::now();
        ranks[victim].kill().expect("it is there");
        let outputs = ends(ranks);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let survivors = outputs.iter().zip(errors(&outputs)).enumerate().filter(|(rank, _)| *rank != victim);
        for (rank, (output, error)) in survivors {
            assert_eq!(output.status.code(), Some(1), "{rank}: {error}");
            assert!(error.contains(&format!("rank {victim}")), "{rank}: {error}");
            assert!(error.contains("go on with: ltd-train --resume"), "{rank}: {error}");
        }
    }
}

#[test]
fn another_configuration_does_not_go_on_with_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = tiny::config(folder.path());
    value["stages"] =
        json!({ "size": { "total_timesteps": 128 }, "depth": null, "rounds": 0, "candidates": 1 });
    let config = write(folder.path(), "config", &value);
    let path = folder.path().join("run").display().to_string();
    let arguments = ["--config", &config, "--share-device", "--auto-resume", "--run-dir", &path];
    run(2, &arguments);
    // It is over: the same command says what came of it.
    run(2, &arguments);
    value["seed"] = json!(9);
    let other = write(folder.path(), "other", &value);
    let arguments = ["--config", &other, "--share-device", "--auto-resume", "--run-dir", &path];
    let outputs = ends(start(2, |_, command| _ = command.args(arguments)));
    for (output, error) in outputs.iter().zip(errors(&outputs)) {
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("seed: was ") && error.contains(", is 9 now"), "{error}");
    }
}

#[test]
fn what_ranks_cannot_do_is_named_on_each_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = tiny::config(folder.path());
    let config = write(folder.path(), "config", &value);
    let mut other = value.clone();
    other["seed"] = json!(9);
    let other = write(folder.path(), "other", &other);
    let path = folder.path().join("run").display().to_string();
    let begun = Instant::now();
    let refused = |expected: &str, codes: [i32; 2], change: &dyn Fn(usize, &mut Command)| {
        let outputs = ends(start(2, |rank, command| {
            command.args(["--run-dir", &path]);
            change(rank, command);
        }));
        let codes_found: Vec<_> = outputs.iter().map(|output| output.status.code()).collect();
        let errors = errors(&outputs);
        assert_eq!(codes_found, codes.map(Some), "{errors:?}");
        assert!(errors.iter().all(|error| error.contains(expected)), "{expected}: {errors:?}");
        assert!(!Path::new(&path).exists(), "{expected}: a folder was left");
    };
    refused("engine.device: cpu would be shared by several ranks", [2, 2], &|_, command| {
        command.args(["--config", &config]);
    });
    refused("ranks differ in seed: rank 1 has 9, rank 0 has ", [2, 2], &|rank, command| {
        command.args(["--share-device", "--config", if rank == 1 { &other } else { &config }]);
    });
    let secret = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    };
    let secrets = [secret("right", "a secret of many bytes"), secret("wrong", "another secret of bytes")];
    refused("has another secret than this rank", [2, 2], &|rank, command| {
        command.args(["--share-device", "--config", &config]).env("LTD_SECRET_FILE", &secrets[rank]);
    });
    // A configuration that one rank lacks.
    refused("No such file", [2, 2], &|rank, command| {
        let missing = folder.path().join("missing.json").display().to_string();
        command.args(["--share-device", "--config", if rank == 1 { &missing } else { &config }]);
    });
    assert!(begun.elapsed() < Duration::from_secs(120), "nobody waits for nobody");
}
