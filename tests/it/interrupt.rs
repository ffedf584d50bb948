//! Ctrl-C ends every phase of every program soon, and what was begun goes on.

use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{self, program, stdout, text};
use crate::machine::machine;

/// A phase must be reached within this time, and end within this one: far less than it would have
/// gone on.
const REACHED: Duration = Duration::from_secs(120);
const ENDED: Duration = Duration::from_secs(8);
const INTERRUPTED: i32 = 130;
const SIGINT: i32 = 2;

/// A program under way, which is killed if a test fails.
struct Running {
    child: Child,
    /// What it was started with, and where its standard error goes.
    arguments: String,
    errors: std::path::PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(name: &str, arguments: &[&str], errors: &Path) -> Self {
        let file = std::fs::File::create(errors).expect("a file");
        let child = program(name, arguments).stdout(Stdio::null()).stderr(file).spawn().expect("it starts");
        Self { child, arguments: format!("{name} {arguments:?}"), errors: errors.to_owned() }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).expect("standard error")
    }

    /// Waits for a phase, goes on into it for a moment, and presses Ctrl-C there.
    fn interrupt(mut self, phase: impl Fn(&str) -> bool) -> (ExitStatus, String) {
        let deadline = Instant::now() + REACHED;
        while !phase(&self.said()) {
            let ended = self.child.try_wait().expect("a state");
            assert!(ended.is_none(), "{}: ended before: {}", self.arguments, self.said());
            assert!(Instant::now() < deadline, "{}: never there: {}", self.arguments, self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let killed = std::process::Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success(), "{}: {}", self.arguments, self.said());
        let deadline = Instant::now() + ENDED;
        loop {
            if let Some(status) = self.child.try_wait().expect("a state") {
                return (status, self.said());
            }
            assert!(Instant::now() < deadline, "{}: goes on: {}", self.arguments, self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// 1,200 prompts of different tokens, a third for each set: no phase over them ends by itself.
fn config(folder: &Path, change: impl FnOnce(&mut Value)) -> std::path::PathBuf {
    let path = command::config(folder, |config| {
        let file = folder.join("many.jsonl");
        let lines = (0..1200u32).map(|number| {
            let ids = [4 + number % 200, 100, 101, 4 + number / 200, 36, 105, 106];
            json!({ "token_ids": ids }).to_string() + "\n"
        });
        std::fs::write(&file, lines.collect::<String>()).expect("written");
        for (index, set) in ["train", "validation", "evaluation"].into_iter().enumerate() {
            config["prompts"][set] = json!({ "file": file, "skip": 400 * index, "take": 400 });
        }
        config["engine"]["threads"] = json!(1);
        config["evaluation"]["max_new_tokens"] = json!(64);
        config["max_new_tokens"] = json!(96);
        change(config);
    });
    let to = folder.join("long.json");
    std::fs::rename(path, &to).expect("renamed");
    to
}

fn assert_interrupted((status, said): (ExitStatus, String), place: &str) {
    assert_eq!(status.code(), Some(INTERRUPTED), "{said}");
    assert!(said.contains(&format!("interrupted at {place}")) && said.contains("go on with: "), "{said}");
}

#[test]
fn a_run_that_never_began_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (run, errors) = (folder.path().join("run"), folder.path().join("errors"));
    let config = command::config(folder.path(), |config| {
        // Loading and choosing a type takes a while.
        config["engine"] = json!({
            "target": "models/smollm2-135m-instruct", "draft": "assets/eagle3-smollm2-135m", "threads": 1
        });
    });
    let arguments = ["--config", text(&config), "--run-dir", text(&run)];
    let child = program("ltd-train", &arguments)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("it starts");
    let mut running = Running { child, arguments: "ltd-train".to_owned(), errors };
    let deadline = Instant::now() + REACHED;
    while !run.is_dir() {
        assert!(Instant::now() < deadline, "{}", running.said());
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &running.child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let status = running.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(INTERRUPTED), "{}", running.said());
    assert!(!run.exists(), "{}", running.said());
}

#[test]
fn a_run_that_is_interrupted_in_every_phase_goes_on_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let latency = folder.path().join("latency.json");
    machine(1.0).write(&latency).expect("written");
    // Phases are long until their minutes are over.
    let config = config(folder.path(), |config| {
        config["replay"] = json!({ "held_out": 0.3, "latency": latency, "max_minutes": 0.1 });
        config["stages"] = json!({
            "size": null, "depth": null, "candidates": 1,
            "predictor": { "epochs": 10000, "max_minutes": 0.1 },
            "rounds": 1, "round": [{ "train": "size", "total_timesteps": 64, "backend": "live" }]
        });
        config["evaluation"]["validation_max_minutes"] = json!(0.08);
        config["evaluation"]["max_minutes"] = json!(0.08);
    });
    let (run, errors) = (folder.path().join("run"), folder.path().join("errors"));
    let begin = ["--config", text(&config), "--run-dir", text(&run)];
    let go_on = ["--resume", text(&run)];
    let interrupt = |arguments: &[&str], phase: &dyn Fn(&str) -> bool, place: &str| {
        assert_interrupted(Running::start("ltd-train", arguments, &errors).interrupt(phase), place);
    };
    interrupt(&begin, &|_| run.join("trace/shard-00000.bin").exists(), "the recording");
    interrupt(&go_on, &|_| run.join("stages/01-predictor").exists(), "stage 01-predictor");
    interrupt(&go_on, &|said| said.contains(" steps, mean reward"), "stage 02-size");
    interrupt(&go_on, &|said| said.contains("02-size  kept "), "the final comparison");
    interrupt(&go_on, &|said| said.contains("constants  "), "the final comparison");
    interrupt(&go_on, &|said| said.contains("selection  "), "the final comparison");
    let summary = stdout("ltd-train", &go_on);
    assert!(summary.contains("| pair ") && summary.contains("| factored "), "{summary}");
}

#[test]
fn a_measurement_of_the_machine_is_interrupted_and_leaves_no_half_of_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["replay"] = json!({ "held_out": 0.3, "max_minutes": 1e-3 });
        config["stages"] = json!({ "size": null, "depth": null, "predictor": {}, "rounds": 0 });
        // Many sizes make many cycles.
        config["size"]["sizes"] = json!((2..=60).collect::<Vec<_>>());
    });
    let (run, errors) = (folder.path().join("run"), folder.path().join("errors"));
    let begin = ["--config", text(&config), "--run-dir", text(&run)];
    for arguments in [&begin[..], &["--resume", text(&run)]] {
        // Whoever is still loading models ends by the signal: there is nothing to say yet.
        let recorded = |said: &str| said.contains("dtype f32") && run.join("checkpoint.safetensors").exists();
        let ended = Running::start("ltd-train", arguments, &errors).interrupt(recorded);
        assert_interrupted(ended, "the recording");
        assert!(!run.join("latency.json").exists());
    }
    let out = folder.path().join("latency.json");
    let arguments = ["latency", "--config", text(&config), "--repeats", "500", "--out", text(&out)];
    let started = Instant::now();
    let loaded = |_: &str| started.elapsed() > Duration::from_secs(2);
    let (status, said) = Running::start("ltd-trace", &arguments, &errors).interrupt(loaded);
    assert!(ended_by_ctrl_c(status), "{status:?}: {said}");
    assert!(!out.exists());
}

/// With its exit code, or by the signal itself, which shells report as the same.
fn ended_by_ctrl_c(status: ExitStatus) -> bool {
    #[cfg(unix)]
    if std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGINT) {
        return true;
    }
    status.code() == Some(INTERRUPTED)
}

#[test]
fn commands_without_a_run_end_at_once_and_recordings_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let at = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (errors, many, trace) = (at("errors"), at("many.jsonl"), at("trace"));
    let started = |name: &str, arguments: &[&str]| Running::start(name, arguments, Path::new(&errors));

    let record = ["record", "--config", text(&config), "--questions", &many, "--out", &trace];
    let shard = folder.path().join("trace/shard-00000.bin");
    let is_filled = |_: &str| shard.metadata().is_ok_and(|file| file.len() > 0);
    let (status, said) = started("ltd-trace", &record).interrupt(is_filled);
    assert_eq!(status.code(), Some(INTERRUPTED), "{said}");
    let recorded = shard.metadata().expect("a trace").len();
    let rest = [&record[..], &["--limit", "20"]].concat();
    stdout("ltd-trace", &rest);
    assert!(shard.metadata().expect("a trace").len() >= recorded);

    let json = at("compared.json");
    let compare = ["compare", "--config", text(&config), "--json", &json];
    let decode = ["--mode", "ar", "--questions", &many];
    let bench_json = at("bench.json");
    let bench = ["engine", "--config", text(&config), "--repeats", "100000", "--json", &bench_json];
    let bench = [&bench[..], &["--context", "32", "--tokens", "1,8"]].concat();
    for (name, arguments) in [
        ("ltd-train", &compare[..]),
        ("ltd-decode", &[&command::TINY[..], &decode].concat()),
        ("ltd-bench", &bench),
    ] {
        let started_at = Instant::now();
        let is_under_way = |_: &str| started_at.elapsed() > Duration::from_secs(3);
        let (status, said) = started(name, arguments).interrupt(is_under_way);
        assert!(ended_by_ctrl_c(status), "{name}: {status:?}: {said}");
    }
    assert!(!Path::new(&json).exists() && !Path::new(&bench_json).exists());
}
