//! Forwards of the target as CUDA graphs: the text is the CPU's, and a step is one launch.

use std::process::Output;

use ltd_cuda_sim::{Event, Machine, phases};
use serde_json::Value;

use crate::command::{program, text};
use crate::runtime::{bench, rehearse, runtime};
use crate::values::{
    DEFAULT, GREEDY, MODES, SAMPLED, TINY, compare, config_on, decoding, devices, rehearsal,
};

const GRAPHS: &[&str] = &["--cuda-graphs", "auto"];

#[test]
fn tokens_are_those_of_the_cpu() {
    let graphs = [GRAPHS, &["--max-length", "256"]].concat();
    for (number, mode) in MODES.iter().enumerate() {
        let sampling = [GREEDY, SAMPLED][number % 2];
        compare(devices(1), "cuda", TINY[1], "40", &[mode, sampling, &graphs].concat());
    }
    for (mode, sampling) in [(0, GREEDY), (2, SAMPLED)] {
        compare(devices(1), "cuda", DEFAULT, "16", &[MODES[mode], sampling, &graphs].concat());
    }
}

/// But for the first forward of each form. What a graph launches is within what a forward may.
#[test]
fn a_forward_is_one_launch_one_copy_there_and_one_back() {
    for (model, a_layer, besides) in [("llama-3.1-8b", 15, 14), ("qwen3-14b", 18, 14)] {
        for capability in [80, 90] {
            let machine = Machine { devices: 1, memory: 140 << 30 };
            let Some(runtime) = runtime(machine, capability) else { return };
            let (layers, events) = bench(runtime, model, "cuda", GRAPHS);
            let place = format!("{model} at {capability}");
            let graphs: Vec<u64> = events
                .iter()
                .filter_map(|event| if let Event::Graph(kernels) = event { Some(*kernels) } else { None })
                .collect();
            let most = (a_layer * layers + besides) as u64;
            assert!(graphs.iter().all(|&kernels| kernels <= most), "{place}: {graphs:?} of {most} kernels");
            let phases = phases(&events);
            let with_graph: Vec<_> = phases.iter().filter(|phase| phase.graphs > 0).collect();
            assert!(with_graph.len() > 20, "{place}: {} graphs", with_graph.len());
            for phase in with_graph {
                let counts = (phase.launches, phase.fills, phase.to_device, phase.to_host, phase.waits);
                assert_eq!((counts, phase.allocations), ((0, 0, 1, 1, 0), 0), "{place}: {phase:?}");
            }
            // Of a row and of 60, while decoding and when forwards are timed.
            let kernel_by_kernel = phases.iter().filter(|phase| phase.launches >= 10 * layers).count();
            assert!(kernel_by_kernel <= 4, "{place}: {kernel_by_kernel} forwards without a graph");
        }
    }
}

/// Costs of graphs are not those of kernels.
#[test]
fn a_table_says_that_it_is_of_graphs() {
    let Some(runtime) = runtime(Machine::default(), 90) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        config_on(&["cuda"], folder.path(), |config| config["engine"]["cuda_graphs"] = "auto".into());
    let table = folder.path().join("latency.json");
    let latency = ["latency", "--config", text(&config), "--repeats", "3", "--out", text(&table)];
    let (events, output) = rehearse(runtime, "ltd-trace", &latency);
    assert!(events.iter().filter(|event| matches!(event, Event::Graph(_))).count() > 50);
    // Nothing is computed: times make no sense, and may be refused.
    if output.status.success() {
        let table: Value = serde_json::from_slice(&std::fs::read(&table).expect("a table")).expect("JSON");
        assert_eq!(table["identity"]["device"], "cuda+graphs");
    } else {
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(problem.contains("measure again on a quiet machine"), "{problem}");
    }
}

/// `ltd-decode` of a few tokens on devices, with graphs, in a number type.
fn with_graphs<'a>(device: &'a str, dtype: &'a str) -> Vec<&'a str> {
    let more = [MODES[1], GREEDY, &["--max-new-tokens", "24", "--max-length", "256", "--json"], GRAPHS];
    decoding(TINY[1], dtype, device, &more.concat())
}

/// The tokens that were decoded, and the only warning.
fn decoded_with_warning(output: &Output) -> (Value, String) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let warnings: Vec<&str> = errors.lines().filter(|line| line.contains("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{errors}");
    let answer = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(answer.lines().last().expect("an answer")).expect("JSON");
    (answer["output_ids"].clone(), warnings[0].to_owned())
}

const LAUNCHED: &str = "warning: engine.cuda_graphs: each kernel is launched: ";

/// When it begins, or later.
#[test]
fn what_cannot_be_captured_is_launched_kernel_by_kernel_with_a_warning() {
    let on_cpu = program("ltd-decode", &with_graphs("cpu", "f32")).output().expect("it starts");
    let on_cpu = String::from_utf8_lossy(&on_cpu.stdout).into_owned();
    let expected: Value = serde_json::from_str(on_cpu.lines().last().expect("an answer")).expect("JSON");
    for captures in ["0", "3"] {
        let mut command = rehearsal(devices(1), "ltd-decode", &with_graphs("cuda", "f32"));
        let output = command.env("LTD_SIM_CAPTURES", captures).output().expect("it starts");
        let (tokens, warning) = decoded_with_warning(&output);
        assert!(warning.contains(LAUNCHED) && warning.ends_with("operation not supported"), "{warning}");
        assert_eq!(tokens, expected["output_ids"]);
    }
    let mut command = rehearsal(devices(2), "ltd-decode", &with_graphs("cuda:0,cuda:1", "f32"));
    let (tokens, warning) = decoded_with_warning(&command.output().expect("it starts"));
    let problem = "the target is on 2 devices, a graph is of one";
    assert!(warning.ends_with(&format!("{LAUNCHED}{problem}")), "{warning}");
    assert_eq!(tokens, expected["output_ids"]);
}

/// LibTorch's own graphs, and what it refuses.
#[test]
fn graphs_are_of_the_device_that_is_named_and_capable() {
    let two = |capability| runtime(Machine { devices: 2, ..Machine::default() }, capability);
    let (Some(hopper), Some(turing)) = (two(90), two(75)) else { return };
    let graphs = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Graph(_))).count();
    let (events, output) = rehearse(hopper, "ltd-decode", &with_graphs("cuda:1", "bf16"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("warning: "), "{errors}");
    assert!(graphs(&events) > 4, "{} graphs", graphs(&events));
    let contexts: Vec<&Event> = events.iter().filter(|event| matches!(event, Event::Context(_))).collect();
    assert_eq!(contexts, [&Event::Context(1)]);

    let folder = tempfile::tempdir().expect("a folder");
    let mut refusing = program("ltd-decode", &with_graphs("cuda", "bf16"));
    hopper.rehearse(&mut refusing, &folder.path().join("trace"));
    let output = refusing.env("LTD_SIM_CAPTURES", "0").output().expect("it starts");
    let (_, warning) = decoded_with_warning(&output);
    assert!(warning.contains(LAUNCHED), "{warning}");

    let more = [MODES[0], GREEDY, &["--max-new-tokens", "12", "--json"], GRAPHS].concat();
    let (_, output) = rehearse(turing, "ltd-decode", &decoding(TINY[1], "f16", "cuda", &more));
    let (_, warning) = decoded_with_warning(&output);
    assert!(warning.contains(LAUNCHED) && warning.contains("FlashAttention"), "{warning}");
}
