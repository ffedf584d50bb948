//! Running the workspace's programs, and folders to run them in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn python() -> PathBuf {
    workspace().join(".venv/bin/python")
}

/// Folder of the programs. They belong to other packages, which a test of this one alone would not
/// build.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let deps = std::env::current_exe().expect("this test");
    let folder = deps.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--workspace", "--bins", "--tests"]).current_dir(workspace());
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "the programs do not build");
    folder
});

/// A program of the workspace, run from its root.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAMS.join(name));
    command.args(arguments).current_dir(workspace()).stdin(Stdio::null());
    command
}

pub(crate) fn run(name: &str, arguments: &[&str]) -> Output {
    program(name, arguments).output().expect("it starts")
}

/// Standard output of a program that must succeed.
pub(crate) fn stdout(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a program that must refuse its input.
pub(crate) fn refusal(name: &str, arguments: &[&str]) -> String {
    refusal_of(&mut program(name, arguments))
}

/// [`refusal`] of a command.
pub(crate) fn refusal_of(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    for line in message.lines() {
        let mut parts: Vec<&str> = line.split(": ").filter(|part| part.len() > 8).collect();
        let count = parts.len();
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), count, "told twice: {line}");
    }
    message
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

pub(crate) const TINY: [&str; 6] = [
    "--target",
    "tests/fixtures/tiny-pair/target",
    "--draft",
    "tests/fixtures/tiny-pair/draft",
    "--dtype",
    "f32",
];

/// Ten short questions in token ids, for the tiny pair.
pub(crate) fn questions(folder: &Path) -> PathBuf {
    let path = folder.join("questions.jsonl");
    let lines =
        ["The cat", "Once upon", "In the", "def add", "To be", "It was", "Call me", "A long", "for i", "Two"];
    let lines = lines.iter().map(|text| {
        let ids: Vec<u32> = text.bytes().map(|byte| u32::from(byte) + 4).collect();
        json!({ "token_ids": ids }).to_string() + "\n"
    });
    std::fs::write(&path, lines.collect::<String>()).expect("written");
    path
}

/// A configuration for the tiny pair, as a file.
pub(crate) fn config(folder: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let file = questions(folder);
    let mut config = json!({
        "engine": {
            "target": "tests/fixtures/tiny-pair/target", "draft": "tests/fixtures/tiny-pair/draft",
            "dtype": "f32", "max_depth": 7, "max_length": 128
        },
        "prompts": {
            "train": { "file": file, "take": 6 },
            "validation": { "file": file, "skip": 6, "take": 2 },
            "evaluation": { "file": file, "skip": 8 }
        },
        "max_new_tokens": 32,
        "depth": { "actions": { "max_depth": 5 } },
        "stages": {
            "size": { "total_timesteps": 256 }, "depth": { "total_timesteps": 256 },
            "round": [{ "train": "size", "total_timesteps": 128 }, { "train": "depth", "total_timesteps": 128 }]
        },
        "evaluation": { "max_new_tokens": 24, "grid": { "depths": [1, 3], "sizes": [4, 12] } }
    });
    change(&mut config);
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).expect("written");
    path
}
