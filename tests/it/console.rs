//! Output that nobody reads, or that has no room.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::command::{TINY, config, program, questions, stdout, text, workspace};
use crate::machine::machine;

/// Exit code with an output that nobody reads, and one that has no room, for standard output and
/// for standard error.
fn ends(command: impl Fn() -> Command) -> [Option<i32>; 4] {
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let end = |output: Stdio, errors: Stdio| {
        let ended = command().stdout(output).stderr(errors).output().expect("it starts");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!told.contains("panicked"), "{told}");
        ended.status.code()
    };
    [
        end(closed(), Stdio::piped()),
        end(Stdio::null(), closed()),
        end(full(), Stdio::piped()),
        end(Stdio::null(), full()),
    ]
}

/// A result that cannot be written is an error; anything else keeps the exit code of the work.
const RESULT: [Option<i32>; 4] = [Some(0), Some(0), Some(1), Some(0)];
/// All that is said is an error.
const REFUSAL: [Option<i32>; 4] = [Some(2); 4];

fn trained(folder: &Path, config: &Path) -> std::path::PathBuf {
    let run = folder.join("run");
    stdout("ltd-train", &["--config", text(config), "--run-dir", text(&run)]);
    run
}

#[test]
fn a_closed_or_full_output_is_no_panic_and_keeps_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let latency = folder.path().join("latency.json");
    machine(1.0).write(&latency).expect("written");
    let config = config(folder.path(), |config| {
        config["replay"] = json!({ "held_out": 0.3, "latency": latency });
        config["stages"] =
            json!({ "size": null, "depth": { "total_timesteps": 128 }, "rounds": 0, "candidates": 1 });
    });
    let run_folder = trained(folder.path(), &config);
    let (config, run_folder, latency) = (text(&config), text(&run_folder), text(&latency));
    let trace = format!("{run_folder}/trace");
    let out = folder.path().join("out");
    let anew = |name: &'static str, arguments: &[&str]| {
        // Each time for the first time.
        let _ = std::fs::remove_dir_all(&out);
        program(name, &[arguments, &["--out", text(&out)]].concat())
    };
    let questions = questions(folder.path());
    let decode = [&TINY[..], &["--questions", text(&questions), "--max-new-tokens", "8"]].concat();
    let json = [&decode[..], &["--json", "--mode", "ar"]].concat();

    assert_eq!(ends(|| program("ltd-decode", &json)), RESULT);
    assert_eq!(ends(|| program("ltd-decode", &[&decode[..], &["--mode", "ar"]].concat())), RESULT);
    assert_eq!(ends(|| program("ltd-train", &["--config", config, "--dry-run"])), RESULT);
    assert_eq!(ends(|| program("ltd-train", &["--resume", run_folder])), RESULT);
    assert_eq!(ends(|| anew("ltd-export", &["--run", run_folder])), RESULT);
    assert_eq!(ends(|| program("ltd-trace", &["oracle", "--trace", &trace, "--latency", latency])), RESULT);
    assert_eq!(ends(|| anew("ltd-trace", &["merge", &trace])), RESULT);
    for name in ["ltd-decode", "ltd-train", "ltd-export", "ltd-trace", "ltd-bench"] {
        assert_eq!(ends(|| program(name, &["--nonsense"])), REFUSAL, "{name}");
        assert_eq!(ends(|| program(name, &["--version"]))[..2], [Some(0); 2], "{name}");
    }
    let refused = ["--config", "missing.json", "--run-dir", "nowhere"];
    assert_eq!(ends(|| program("ltd-train", &refused)), REFUSAL);

    // What was asked for beside the output is there, whatever becomes of the output.
    let trees = folder.path().join("trees.safetensors");
    let dump = ["--mode", "static", "--depth", "2", "--size", "8", "--json", "--token-ids", "5 6 7"];
    let dump = [&TINY[..], &dump, &["--max-new-tokens", "16", "--dump-trees", text(&trees)]].concat();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert!(program("ltd-decode", &dump).stdout(writer).status().expect("it starts").success());
    assert!(trees.is_file());
    // Closed altogether, not only at the other end.
    let line = format!(
        "\"$0\" --config {config} --dry-run >&-; echo $?; \"$0\" --config {config} --dry-run 2>&- | head -1; \"$0\" --help | head -1"
    );
    let shell =
        Command::new("bash").args(["-c", &line]).arg(program("ltd-train", &[]).get_program()).output();
    let shell = shell.expect("a shell");
    let said = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(
        said.starts_with("0\nstages:\n") && !String::from_utf8_lossy(&shell.stderr).contains("panicked"),
        "{said}"
    );
}

/// `ulimit -f` is a disk that fills at a place of our choice.
#[test]
fn files_that_cannot_grow_end_a_run_with_an_error_and_it_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["reward"] = json!("acceptance");
        config["depth"]["ppo"] = json!({ "n_steps": 64, "net_arch": { "pi": [8], "vf": [8] } });
        config["depth"]["layout"] = json!("compact");
        config["stages"] =
            json!({ "size": null, "depth": { "total_timesteps": 2048 }, "rounds": 0, "candidates": 1 });
    });
    let run_folder = folder.path().join("run");
    // Room for a checkpoint, not for all curves.
    let limited = |arguments: &str| {
        let line = format!("ulimit -f 60; exec \"$0\" {arguments}");
        let mut command = Command::new("bash");
        command.args(["-c", &line]).arg(program("ltd-train", &[]).get_program());
        command.current_dir(workspace()).output().expect("a shell")
    };
    let ended = limited(&format!("--config {} --run-dir {}", text(&config), text(&run_folder)));
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    let advice = format!("what is finished is kept; go on with: ltd-train --resume {}", text(&run_folder));
    assert!(errors.contains("File too large") && errors.trim_end().ends_with(&advice), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(run_folder.join("checkpoint.safetensors").is_file(), "there was room for it: {errors}");

    stdout("ltd-train", &["--resume", text(&run_folder)]);
    let undisturbed = folder.path().join("undisturbed").join("run");
    stdout("ltd-train", &["--config", text(&config), "--run-dir", text(&undisturbed)]);
    for name in ["depth.safetensors", "networks.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join("stages/01-depth").join(name)).expect("a file");
        assert!(read(&run_folder) == read(&undisturbed), "{name} is not that of an undisturbed run");
    }
}
