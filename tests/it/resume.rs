//! Runs that failed on the way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::command::{config, program, run, text};
use crate::machine::machine;

#[test]
fn a_run_whose_measurement_fails_says_how_to_go_on_and_goes_on_after_the_recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["replay"] = json!({ "held_out": 0.3 });
        config["stages"] =
            json!({ "size": null, "depth": { "total_timesteps": 256, "verification_size": 4 }, "rounds": 0 });
    });
    let run_folder = folder.path().join("run");
    let latency = run_folder.join("latency.json");
    let records = |errors: &str| errors.lines().any(|line| line.starts_with("record "));
    let mut begin = program("ltd-train", &["--config", text(&config), "--run-dir", text(&run_folder)]);
    let child = begin.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !run_folder.join("run.json").is_file() {
        assert!(Instant::now() < deadline, "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The table, which takes seconds to measure, cannot take its place, so the step fails in
    // whatever state this machine is.
    std::fs::create_dir_all(latency.join("in-the-way")).expect("a folder");
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(records(&errors), "{errors}");
    let advice = format!("go on with: ltd-train --resume {}", text(&run_folder));
    assert!(errors.trim_end().ends_with(&advice), "{errors}");

    let shard = run_folder.join("trace/shard-00000.bin");
    let state = || {
        let metadata = shard.metadata().expect("what was recorded");
        (metadata.len(), metadata.modified().expect("a time"))
    };
    let recorded = state();
    std::fs::remove_dir_all(&latency).expect("removed");
    machine(1.0).write(&latency).expect("written");
    let output = run("ltd-train", &["--resume", text(&run_folder)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("| pair "), "{errors}");
    assert_eq!(state(), recorded);
    assert!(!records(&errors), "{errors}");
}
