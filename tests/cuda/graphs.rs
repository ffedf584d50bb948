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
    }
}

/// Runs `ltd-decode` where nothing can be captured, or not what is asked for: its only warning.
fn warning(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let warnings: Vec<&str> = errors.lines().filter(|line| line.contains("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{errors}");
    warnings[0].to_owned()
}

#[test]
fn what_cannot_be_captured_is_launched_kernel_by_kernel_with_a_warning() {
    let of = |device, more: &[&'static str]| {
        decoding(TINY[1], "f32", device, &[MODES[1], GREEDY, &["--max-new-tokens", "24"], more].concat())
    };
    let launched = || "warning: engine.cuda_graphs: each kernel is launched: ".to_owned();
    let expected = program("ltd-decode", &of("cpu", &[])).output().expect("it starts").stdout;
    let decoded = |output: &Output| {
        // The text is the same; what follows it is about times.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().map(str::to_owned);
        assert_eq!(text(&output.stdout), text(&expected));
    };

    let mut command = rehearsal(devices(1), "ltd-decode", &of("cuda", GRAPHS));
    let output = command.env("LTD_SIM_CAPTURE", "0").output().expect("it starts");
    let found = warning(&output);
    assert!(found.contains(&launched()) && found.contains("operation not supported"), "{found}");
    decoded(&output);

    let output =
        rehearsal(devices(2), "ltd-decode", &of("cuda:0,cuda:1", GRAPHS)).output().expect("it starts");
    let found = warning(&output);
    assert!(found.ends_with(&(launched() + "the target is on 2 devices, a graph is of one")), "{found}");
    decoded(&output);
}
