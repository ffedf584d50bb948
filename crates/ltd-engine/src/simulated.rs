//! Unit tests on simulated CUDA devices. LibTorch asks for devices once in a process: each is a
//! process of its own, which is this program again with one of the ignored tests.

use std::process::Command;

use ltd_cuda_sim::{Machine, Values};

/// Runs an ignored test, named with its module, on two devices with real values.
pub(crate) fn holds(name: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name, "--ignored"]);
    Values(Machine { devices: 2, ..Machine::default() }).rehearse(&mut command);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
