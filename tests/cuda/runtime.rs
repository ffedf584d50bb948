//! LibTorch's own CUDA half on a runtime that counts: what a step launches, copies and waits for,
//! at the sizes of real models.

use std::process::Output;

use ltd_cuda_sim::{Event, Machine, Phase, Runtime, Wait, phases, phases_on, read_trace};
use serde_json::Value;

use crate::command::{program, refusal_of, text, workspace};
use crate::values::config_on;

/// Most launches, for each layer and besides.
#[derive(Clone, Copy)]
struct Launches {
    a_layer: usize,
    besides: usize,
}

/// What a model's phases may take at most.
#[derive(Clone, Copy)]
struct Budget {
    model: &'static str,
    step: Launches,
    verification: Launches,
    level: usize,
    root: usize,
}

/// Attention without norms of its own, and with them.
const LLAMA: Budget = Budget {
    model: "llama-3.1-8b",
    step: Launches { a_layer: 14, besides: 7 },
    verification: Launches { a_layer: 14, besides: 11 },
    level: 25,
    root: 28,
};
const QWEN3: Budget = Budget {
    model: "qwen3-14b",
    step: Launches { a_layer: 17, besides: 8 },
    verification: Launches { a_layer: 17, besides: 12 },
    level: 28,
    root: 31,
};
const BUDGETS: [Budget; 5] = [
    LLAMA,
    // Each query head has a key head of its own: results need not be put in another order.
    Budget {
        model: "vicuna-13b",
        verification: Launches { a_layer: 13, besides: 11 },
        level: 24,
        root: 27,
        ..LLAMA
    },
    Budget { model: "deepseek-r1-distill-llama-8b", ..LLAMA },
    QWEN3,
    Budget { model: "qwen3-32b", ..QWEN3 },
];
/// Of an A100 and an H100.
const CAPABILITIES: [u32; 2] = [80, 90];

/// The phases of a run, by what they are.
#[derive(Debug, Default)]
struct Phases {
    /// A token of plain decoding.
    step: Vec<Phase>,
    root: Vec<Phase>,
    level: Vec<Phase>,
    verification: Vec<Phase>,
}

impl Phases {
    /// A forward of the target launches some kernels for each of its layers, one of the draft those
    /// of a layer; what is less chooses a token, or only measures.
    fn of(all: &[Phase], layers: usize) -> Self {
        const A_LAYER: usize = 10;
        let is_forward =
            |phase: &Phase| phase.to_host > 0 && phase.to_device > 0 && phase.launches >= A_LAYER;
        let is_target = |phase: &Phase| phase.launches >= A_LAYER * layers;
        let mut found = Self::default();
        for pair in all.windows(2) {
            let [before, phase] = [pair[0], pair[1]];
            if !is_forward(&before) || !is_forward(&phase) {
                continue;
            }
            let kind = match (is_target(&before), is_target(&phase)) {
                (true, true) => &mut found.step,
                (true, false) => &mut found.root,
                (false, false) => &mut found.level,
                (false, true) => &mut found.verification,
            };
            kind.push(phase);
        }
        found
    }
}

/// The rehearsal; none where LibTorch has no CUDA half, which `LTD_REQUIRE_CUDA_HALF` makes a
/// failure.
pub(crate) fn runtime(machine: Machine, capability: u32) -> Option<Runtime> {
    let found = Runtime::new(machine, capability);
    if let Err(missing) = found {
        assert!(std::env::var_os("LTD_REQUIRE_CUDA_HALF").is_none(), "not covered: {missing}");
    }
    found.ok()
}

/// Runs a program on devices of a compute capability: what it did with them, and its output.
pub(crate) fn rehearse(runtime: Runtime, name: &str, arguments: &[&str]) -> (Vec<Event>, Output) {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let mut command = program(name, arguments);
    runtime.rehearse(&mut command, &trace);
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("is not simulated"), "{errors}");
    (read_trace(&trace).expect("events"), output)
}

/// A measurement that only shows what is done.
const SHORT: [&str; 8] =
    ["--repeats", "2", "--prompts", "1", "--max-new-tokens", "8", "--memory-cycles", "2"];

/// What `ltd-bench engine` does with random weights of a model's size on some devices, and the
/// model's layers.
pub(crate) fn bench(runtime: Runtime, model: &str, devices: &str, more: &[&str]) -> (usize, Vec<Event>) {
    let folder = tempfile::tempdir().expect("a folder");
    let figures = folder.path().join("figures.json");
    let config = workspace().join("tests/fixtures/families/configs").join(model).join("target/config.json");
    let subject = ["engine", "--random-weights", text(&config), "--device", devices, "--dtype", "bf16"];
    let forwards = ["--tokens", "1,60", "--trees", "7x59", "--json", text(&figures)];
    let arguments = [&subject[..], &forwards, &SHORT, more].concat();
    let (events, output) = rehearse(runtime, "ltd-bench", &arguments);
    assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
    let config: Value = serde_json::from_slice(&std::fs::read(&config).expect("a file")).expect("JSON");
    let layers = config["num_hidden_layers"].as_u64().expect("a number") as usize;
    (layers, events)
}

/// Counts are the same whatever machine this runs on. What is allocated once stays: no phase but
/// the first two of a kind allocates.
#[test]
fn steps_stay_within_their_budgets() {
    for (budget, capability) in BUDGETS.iter().flat_map(|budget| CAPABILITIES.map(|it| (budget, it))) {
        let Some(runtime) = runtime(Machine { devices: 1, memory: 140 << 30 }, capability) else { return };
        let (layers, events) = bench(runtime, budget.model, "cuda", &[]);
        let found = Phases::of(&phases(&events), layers);
        let forward = |launches: Launches| launches.a_layer * layers + launches.besides;
        for (kind, phases, launches) in [
            ("step", &found.step, forward(budget.step)),
            ("root", &found.root, budget.root),
            ("level", &found.level, budget.level),
            ("verification", &found.verification, forward(budget.verification)),
        ] {
            let place = format!("{kind} of {} at {capability}", budget.model);
            assert!(phases.len() > 4, "{place}: {} were seen", phases.len());
            for (number, phase) in phases.iter().enumerate() {
                let within = phase.launches + phase.fills <= launches
                    && phase.to_device == 1
                    && phase.to_host == 1
                    && phase.waits == 0
                    && (phase.allocations == 0 || number < 2);
                assert!(
                    within,
                    "{place}: {phase:?} where {launches} launches, a copy each way and no wait between the two for the device are allowed"
                );
            }
        }
    }
}

/// Each device gets its own copy. The hidden states go from one to the other once, and so does what
/// the first one has of the features.
#[test]
fn a_forward_over_two_devices_stays_within_its_budget() {
    const DEVICES: usize = 2;
    let Some(runtime) = runtime(Machine { devices: DEVICES, memory: 140 << 30 }, 90) else { return };
    let (layers, events) = bench(runtime, "qwen3-32b", "cuda:0,cuda:1", &[]);
    let is_target = |phase: &Phase| phase.launches >= 10 * layers && phase.to_host > 0;
    // Those of cycles and of plain decoding. Later, products are timed on one device alone.
    let forwards: Vec<Phase> = phases_on(DEVICES, &events).into_iter().filter(is_target).take(12).collect();
    assert_eq!(forwards.len(), 12);
    // The second device has a mask, positions and cosines of its own.
    let most = QWEN3.verification.a_layer * layers + QWEN3.verification.besides + 5;
    for (number, phase) in forwards.iter().enumerate() {
        let within = phase.launches + phase.fills <= most
            && (phase.to_device, phase.to_host, phase.between, phase.waits) == (DEVICES, 1, 2, 0)
            && (phase.allocations == 0 || number < 4);
        assert!(within, "{number}: {phase:?} where {most} launches are allowed");
    }
}

/// Costs and figures are measured on a device as they are on a CPU. Nothing is computed: times make
/// no sense, and may be refused.
#[test]
fn tables_and_figures_are_measured_on_a_device() {
    let Some(runtime) = runtime(Machine::default(), 90) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_on(&["cuda"], folder.path(), |_| {});
    let [table, figures] = ["latency.json", "figures.json"].map(|name| folder.path().join(name));
    let latency = ["latency", "--config", text(&config), "--repeats", "3", "--out", text(&table)];
    let (events, output) = rehearse(runtime, "ltd-trace", &latency);
    if output.status.success() {
        let table: Value = serde_json::from_slice(&std::fs::read(&table).expect("a table")).expect("JSON");
        assert_eq!(table["identity"]["device"], "cuda");
    } else {
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(problem.contains("measure again on a quiet machine"), "{problem}");
    }
    assert!(phases(&events).iter().filter(|phase| phase.launches > 0).count() > 100);

    let engine = ["engine", "--config", text(&config), "--json", text(&figures), "--context", "64"];
    let forwards = ["--tokens", "1,8", "--trees", "3x12"];
    let arguments = [&engine[..], &forwards, &SHORT].concat();
    let waits = |more: &[&str]| {
        let _ = std::fs::remove_file(&figures);
        let (events, output) = rehearse(runtime, "ltd-bench", &[&arguments, more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&std::fs::read(&figures).expect("figures")).expect("JSON");
        assert_eq!(report["operations"].is_null(), more.is_empty());
        events.iter().filter(|event| **event == Event::Wait(Wait::Device)).count()
    };
    // Parts of a forward are timed without waits: two sizes, four times, with three products each.
    assert_eq!(waits(&["--per-op"]) - waits(&[]), 2 * 2 * 4 * (1 + 3));
}

/// Temperature, top-k and top-p take few launches more than the most probable token, in a step and
/// in a verification, and no copy or wait.
#[test]
fn sampling_takes_few_launches_more() {
    const MOST: usize = 20;
    let Some(runtime) = runtime(Machine::default(), 90) else { return };
    let pair = ["--target", "models/smollm2-135m-instruct", "--draft", "assets/eagle3-smollm2-135m"];
    let rest = ["--device", "cuda", "--dtype", "bf16", "--token-ids", "1 2 3", "--max-new-tokens", "8"];
    let largest = |mode: &[&str], sampling: &[&str]| {
        let arguments = [&pair, mode, sampling, &rest[..]].concat();
        let (events, output) = rehearse(runtime, "ltd-decode", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let phases = phases(&events).into_iter().filter(|phase| phase.to_host > 0);
        phases.max_by_key(|phase| phase.launches).expect("a phase")
    };
    for mode in [&["--mode", "ar"][..], &["--mode", "static", "--depth", "3", "--size", "59"]] {
        let greedy = largest(mode, &["--temperature", "0"]);
        let sampled = largest(mode, &["--temperature", "0.7", "--top-p", "0.9", "--top-k", "40"]);
        let more = sampled.launches + sampled.fills - greedy.launches - greedy.fills;
        assert!(more <= MOST, "{mode:?}: {more} launches more");
        assert_eq!((sampled.to_device, sampled.to_host, sampled.waits), (1, 1, 0), "{mode:?}");
    }
}

/// Arguments of `ltd-decode` for the tiny pair on a device.
fn decoding(device: &str) -> [&str; 12] {
    let [target, draft] = ["tests/fixtures/tiny-pair/target", "tests/fixtures/tiny-pair/draft"];
    [
        "--target",
        target,
        "--draft",
        draft,
        "--device",
        device,
        "--mode",
        "ar",
        "--dtype",
        "f32",
        "--token-ids",
        "1",
    ]
}

/// A context takes hundreds of megabytes of a device: one that is not named has none.
#[test]
fn a_device_that_is_not_named_is_left_alone() {
    let Some(runtime) = runtime(Machine { devices: 2, ..Machine::default() }, 90) else { return };
    let (events, output) = rehearse(runtime, "ltd-decode", &decoding("cuda:1"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let contexts: Vec<&Event> = events.iter().filter(|event| matches!(event, Event::Context(_))).collect();
    assert_eq!(contexts, [&Event::Context(1)]);
}

/// What is timed begins and ends when all devices of the model have done their part.
#[test]
fn all_devices_of_a_model_are_waited_for() {
    let Some(runtime) = runtime(Machine { devices: 2, ..Machine::default() }, 90) else { return };
    let waits = |devices, tokens| {
        let arguments = [&decoding(devices)[..], &["--max-new-tokens", tokens]].concat();
        let (events, output) = rehearse(runtime, "ltd-decode", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        events.iter().filter(|event| **event == Event::Wait(Wait::Device)).count()
    };
    // A step begins and ends.
    for (devices, count) in [("cuda:0", 1), ("cuda:0,cuda:1", 2)] {
        assert_eq!(waits(devices, "12") - waits(devices, "4"), 2 * count * 8, "{devices}");
    }
}

/// What is loaded when it is first used is loaded before anything is timed.
#[test]
fn the_first_token_takes_what_the_others_do() {
    let Some(runtime) = runtime(Machine::default(), 90) else { return };
    let arguments = [&decoding("cuda")[..], &["--max-new-tokens", "6"]].concat();
    let (events, output) = rehearse(runtime, "ltd-decode", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let phases = phases(&events);
    let last: Vec<Phase> = phases[phases.len() - 6..].to_vec();
    assert!(last.iter().all(|phase| *phase == last[5] && phase.allocations == 0), "{last:#?}");
}

#[test]
fn a_driver_that_is_too_old_is_the_reason_why_there_is_no_device() {
    let Some(runtime) = runtime(Machine::default(), 90) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = program("ltd-decode", &decoding("cuda"));
    runtime.rehearse(&mut command, &folder.path().join("trace"));
    let message = refusal_of(command.env("LTD_SIM_DRIVER", "12040"));
    let expected =
        "no CUDA device on this machine: CUDA driver version is insufficient for CUDA runtime version";
    assert!(message.contains(expected), "{message}");
}
