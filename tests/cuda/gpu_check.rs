//! `scripts/gpu-check`, which is to work when there is a GPU: in its short form, on both
//! rehearsals.

use std::path::Path;
use std::process::Command;

use ltd_cuda_sim::{Machine, Values};
use serde_json::Value;

use crate::command::{program, text, workspace};
use crate::runtime::runtime;

/// The check of some parts, to be rehearsed.
fn check(parts: &str, out: &Path) -> Command {
    let mut command = Command::new(workspace().join("scripts/gpu-check"));
    let decode = program("ltd-decode", &[]);
    let programs = Path::new(decode.get_program()).parent().expect("a folder");
    command.args(["--short", "--parts", parts, "--out", text(out), "--programs", text(programs)]);
    command
}

/// What a part has found.
fn part(out: &Path, name: &str) -> Value {
    let result = std::fs::read(out.join(format!("part-{name}.json"))).expect("the part has run");
    serde_json::from_slice::<Value>(&result).expect("JSON")
}

#[test]
fn parity_is_checked_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = || {
        let mut command = check("parity", folder.path());
        Values(Machine::default()).rehearse(&mut command);
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    assert!(run().contains("parity: done ("));
    assert_eq!(part(folder.path(), "parity")["found"]["tokens"], 2 * 2 * 2 * 12);
    assert!(run().contains("done before"));
    let report = std::fs::read_to_string(folder.path().join("report.md")).expect("a report");
    assert!(report.contains("96 tokens are equal") && report.contains("Not run."), "{report}");
}

#[test]
fn speed_is_measured_and_what_fails_is_told() {
    let Some(runtime) = runtime(Machine { devices: 1, memory: 45 << 30 }, 90) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // The second one does not fit.
    let mut command = check("llama-3.1-8b,qwen3-14b", folder.path());
    runtime.rehearse(&mut command, &folder.path().join("trace"));
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = part(folder.path(), "llama-3.1-8b");
    for graphs in ["off", "auto"] {
        let figures = &figures["found"][graphs];
        assert_eq!(figures["device"], if graphs == "off" { "cuda" } else { "cuda+graphs" });
        // The rehearsal has no kernels that the profiler could see.
        assert_eq!(
            figures["launches"],
            serde_json::json!({
                "step": null, "root_expansion": null, "level": null, "verification": null
            })
        );
    }
    let problem = part(folder.path(), "qwen3-14b")["problem"].to_string();
    assert!(problem.contains("out of memory") || problem.contains("GiB"), "{problem}");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("| plain decoding, a token |") && report.contains("Not done:"), "{report}");
}

#[test]
fn bad_arguments_are_refused() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(workspace().join("scripts/gpu-check")).args(arguments).output();
        let output = output.expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["--parts", "speed"]).contains("unknown part speed; expected parity"));
    assert!(refused(&["--minutes", "0"]).contains("expected more than 0"));
    assert!(refused(&["--programs", "tests"]).contains("tests: ltd-bench, ltd-decode, ltd-train expected"));
    assert!(refused(&["--programs", "nowhere"]).contains("no nowhere"));
}
