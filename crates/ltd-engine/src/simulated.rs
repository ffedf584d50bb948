//! Unit tests on simulated CUDA devices. LibTorch asks for devices once in a process: each is a
//! process of its own, which is this program again with one of the ignored tests.

use std::process::Command;

use ltd_cuda_sim::{Event, Machine, Runtime, Values, read_trace};

/// Runs an ignored test, named with its module, on two devices with real values.
pub(crate) fn holds(name: &str) {
    let mut command = this_program(name);
    Values(Machine { devices: 2, ..Machine::default() }).rehearse(&mut command);
    assert_passes(command);
}

/// What an ignored test did with a device that computes nothing: each event, with the addresses of
/// launches. None where LibTorch has no CUDA half, which `LTD_REQUIRE_CUDA_HALF` makes a failure.
pub(crate) fn traced(name: &str) -> Option<Vec<Event>> {
    let runtime = match Runtime::new(Machine::default(), 90) {
        Ok(runtime) => runtime,
        Err(missing) => {
            assert!(std::env::var_os("LTD_REQUIRE_CUDA_HALF").is_none(), "not covered: {missing}");
            return None;
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let mut command = this_program(name);
    runtime.rehearse(&mut command, &trace);
    command.env("LTD_SIM_ARGUMENTS", "1");
    assert_passes(command);
    Some(read_trace(&trace).expect("events"))
}

fn this_program(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name, "--ignored"]);
    command
}

fn assert_passes(mut command: Command) {
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
