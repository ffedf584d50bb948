//! Devices with real values: the text is the CPU's, and nothing reads what it must not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ltd::env::trace::{Trace, TracedSequence};
use ltd_cuda_sim::{Machine, Values};
use serde_json::{Value, json};

use crate::command::{config, program, refusal_of, text};
use crate::machine::machine;

/// A target, a draft, and tokens to begin with.
pub(crate) type Pair = [&'static str; 3];

/// Of one key head, and of groups of query heads that share one.
pub(crate) const TINY: [Pair; 2] = [
    ["tests/fixtures/tiny-pair/target", "tests/fixtures/tiny-pair/draft", "1 88 108 105 36"],
    ["tests/fixtures/tiny-gqa-pair/target", "tests/fixtures/tiny-gqa-pair/draft", "1 88 108 105 36"],
];
pub(crate) const DEFAULT: Pair =
    ["models/smollm2-135m-instruct", "assets/eagle3-smollm2-135m", "1 504 3575 282 4649 314"];

pub(crate) const GREEDY: &[&str] = &["--temperature", "0"];
pub(crate) const SAMPLED: &[&str] =
    &["--temperature", "0.7", "--top-p", "0.9", "--top-k", "40", "--seed", "5"];

pub(crate) const MODES: [&[&str]; 6] = [
    &["--mode", "ar"],
    &["--mode", "static", "--depth", "3", "--size", "12"],
    &["--mode", "static", "--depth", "7", "--size", "59"],
    &["--mode", "static", "--source", "copy"],
    &["--mode", "static", "--source", "rule", "--depth", "3", "--size", "12"],
    &["--mode", "static", "--source", "merged", "--depth", "3", "--size", "12"],
];

/// A program that finds simulated devices.
pub(crate) fn rehearsal(machine: Machine, name: &str, arguments: &[&str]) -> Command {
    let mut command = program(name, arguments);
    Values(machine).rehearse(&mut command);
    command
}

pub(crate) fn devices(devices: usize) -> Machine {
    Machine { devices, ..Machine::default() }
}

fn successful(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The new tokens that `ltd-decode` prints.
pub(crate) fn tokens(mut command: Command) -> Vec<Value> {
    let output = successful(&mut command);
    let lines = String::from_utf8(output.stdout).expect("text");
    let answer: Value = serde_json::from_str(lines.lines().last().expect("an answer")).expect("JSON");
    answer["output_ids"].as_array().expect("tokens").clone()
}

/// Arguments of `ltd-decode` for a pair on a device, or on several.
pub(crate) fn decoding<'a>(
    [target, draft, tokens]: Pair,
    dtype: &'a str,
    device: &'a str,
    more: &[&'a str],
) -> Vec<&'a str> {
    let pair =
        ["--target", target, "--draft", draft, "--token-ids", tokens, "--dtype", dtype, "--device", device];
    [&pair[..], more].concat()
}

/// The tokens of a pair on a device that there may be several of are those of the CPU.
pub(crate) fn compare(machine: Machine, device: &str, pair: Pair, count: &str, mode: &[&str]) {
    let more = [mode, &["--max-new-tokens", count, "--json"]].concat();
    let simulated = tokens(rehearsal(machine, "ltd-decode", &decoding(pair, "f32", device, &more)));
    assert!(!simulated.is_empty());
    let expected = tokens(program("ltd-decode", &decoding(pair, "f32", "cpu", &more)));
    assert_eq!(simulated, expected, "{device} {mode:?} of {}", pair[0]);
}

#[test]
fn tokens_are_those_of_the_cpu() {
    for pair in TINY {
        for (mode, sampling) in MODES.iter().flat_map(|mode| [(mode, GREEDY), (mode, SAMPLED)]) {
            compare(devices(1), "cuda", pair, "40", &[mode, sampling].concat());
        }
    }
}

#[test]
fn tokens_of_the_default_pair_are_those_of_the_cpu() {
    for (mode, sampling) in [(0, GREEDY), (1, SAMPLED), (2, GREEDY), (5, SAMPLED)] {
        compare(devices(1), "cuda", DEFAULT, "16", &[MODES[mode], sampling].concat());
    }
}

#[test]
fn several_devices_share_a_target() {
    for device in ["cuda:0,cuda:1", "cuda:1", "auto"] {
        for (mode, sampling) in [(0, SAMPLED), (2, GREEDY)] {
            compare(devices(2), device, TINY[1], "24", &[MODES[mode], sampling].concat());
        }
    }
}

/// Types of two bytes have attention of their own. Rounding may lead to another text after a while,
/// which this is too short for.
#[test]
fn types_of_two_bytes_begin_as_f32_does() {
    let of = |pair, dtype, mode: usize| {
        let more = [MODES[mode], GREEDY, &["--max-new-tokens", "6", "--json"]].concat();
        tokens(rehearsal(devices(1), "ltd-decode", &decoding(pair, dtype, "cuda", &more)))[..6].to_vec()
    };
    for pair in TINY {
        let expected = of(pair, "f32", 0);
        for (dtype, mode) in [("bf16", 0), ("bf16", 1), ("f16", 0), ("f16", 2)] {
            assert_eq!(of(pair, dtype, mode), expected, "{dtype} {mode} of {}", pair[0]);
        }
    }
}

/// Weights that do not fit on one device take the next one.
#[test]
fn auto_takes_as_many_devices_as_a_model_needs() {
    let more = ["--mode", "ar", "--max-new-tokens", "4", "--max-length", "256", "--json"];
    let arguments = decoding(DEFAULT, "f32", "auto", &more);
    // Weights, caches and what is kept free for libraries take 2 GiB of one device.
    let small = |devices| Machine { devices, memory: 3 << 29 };
    let shared = tokens(rehearsal(small(2), "ltd-decode", &arguments));
    assert_eq!(shared, tokens(rehearsal(devices(1), "ltd-decode", &arguments)));

    let message = refusal_of(&mut rehearsal(small(1), "ltd-decode", &arguments));
    assert!(message.contains("need 1.") && message.contains("of which 1.50 GiB are free"), "{message}");
}

/// A configuration whose engine is on devices.
pub(crate) fn config_on(devices: &[&str], folder: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    config(folder, |config| {
        config["engine"]["devices"] = json!(devices);
        change(config);
    })
}

/// Begins a run with some ranks, and presses Ctrl-C in the first while it records.
fn interrupted(begin: Vec<Command>, trace: &Path) {
    let start = |mut rank: Command| rank.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut ranks: Vec<_> = begin.into_iter().map(|rank| start(rank).expect("it starts")).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !trace.join("shard-00000.bin").exists() {
        assert!(
            Instant::now() < deadline && ranks[0].try_wait().expect("a state").is_none(),
            "{}",
            trace.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &ranks[0].id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    for mut rank in ranks {
        assert_eq!(rank.wait().expect("it ends").code(), Some(130), "{}", trace.display());
    }
}

/// All kinds of stages, interrupted and gone on with; what comes out decodes on devices and on a
/// CPU alike.
#[test]
fn a_run_on_a_device_ends_with_a_package_that_decodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = folder.path().join("latency.json");
    machine(1.0).write(&table).expect("written");
    let config = config_on(&["cuda:0", "cuda:1"], folder.path(), |config| {
        config["replay"] = json!({ "held_out": 0.3, "latency": table });
        config["stages"] = json!({
            "predictor": {}, "imitation": {}, "size": { "total_timesteps": 128 },
            "depth": { "total_timesteps": 128 }, "rounds": 1,
            "round": [
                { "train": "source", "total_timesteps": 128 }, { "train": "size", "total_timesteps": 128 },
                { "train": "depth", "total_timesteps": 128 }
            ]
        });
    });
    let run = folder.path().join("run");
    let begin = ["--config", text(&config), "--run-dir", text(&run)];
    interrupted(vec![rehearsal(devices(2), "ltd-train", &begin)], &run.join("trace"));
    let output = successful(&mut rehearsal(devices(2), "ltd-train", &["--resume", text(&run)]));
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("| pair "), "{report}");

    let package = folder.path().join("package");
    let export = ["--run", text(&run), "--out", text(&package)];
    successful(&mut program("ltd-export", &export));
    let mode = ["--mode", "policy", "--policy", text(&package)];
    compare(devices(1), "cuda", TINY[0], "40", &[&mode, GREEDY].concat());
    compare(devices(2), "cuda:0,cuda:1", TINY[0], "40", &[&mode, SAMPLED].concat());
}

#[test]
fn a_trace_of_a_device_holds_what_one_of_the_cpu_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_on(&["cuda"], folder.path(), |_| {});
    let [trace, on_cpu] = ["trace", "on-cpu"].map(|name| folder.path().join(name));
    let questions = folder.path().join("questions.jsonl");
    let record =
        ["record", "--config", text(&config), "--questions", text(&questions), "--limit", "3", "--out"];
    successful(&mut rehearsal(devices(1), "ltd-trace", &[&record[..], &[text(&trace)]].concat()));
    let cpu = [&record[..], &[text(&on_cpu), "--set", "engine.devices=[\"cpu\"]"]].concat();
    successful(&mut program("ltd-trace", &cpu));
    let [trace, on_cpu] = [trace, on_cpu].map(|folder| Trace::read(&folder).expect("a trace"));
    assert_eq!(trace.len(), 3);
    for (simulated, expected) in trace.sequences().zip(on_cpu.sequences()) {
        let [simulated, expected] = [simulated, expected].map(|sequence| sequence.expect("it is read"));
        assert_eq!((simulated.prompt, &simulated.tokens), (expected.prompt, &expected.tokens));
        assert_eq!(simulated.len(), expected.len());
        for position in 0..expected.len() {
            let scores = |sequence: &TracedSequence| {
                let mut scores = vec![0.0; on_cpu.header.scores_per_position()];
                sequence.position(position).write_scores(0, &mut scores);
                scores
            };
            let pairs = scores(&simulated).into_iter().zip(scores(&expected));
            // They are kept with eleven bits.
            let far = pairs.filter(|(a, b)| (a - b).abs() > 1e-2 * (1.0 + b.abs())).count();
            assert_eq!(far, 0, "scores at {position} of prompt {}", expected.prompt);
        }
    }
}

/// Each rank of a machine has a device of its own, and all have one configuration: that of the run,
/// with which it goes on.
#[test]
fn ranks_have_a_device_each_and_go_on_with_their_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = folder.path().join("latency.json");
    machine(1.0).write(&table).expect("written");
    let config = config(folder.path(), |config| {
        config["engine"]["device"] = json!("cuda");
        config["engine"]["threads"] = json!(1);
        config["replay"] = json!({ "held_out": 0.3, "latency": table });
        config["stages"] = json!({ "size": { "total_timesteps": 128 }, "depth": null, "rounds": 0 });
    });
    let run = folder.path().join("run");
    let ranks = || -> Vec<Command> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port().to_string();
        let arguments = ["--config", text(&config), "--run-dir", text(&run), "--auto-resume"];
        let rank = |rank: usize| {
            let mut command = rehearsal(devices(2), "ltd-train", &arguments);
            let place = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port), ("WORLD_SIZE", "2")];
            command.envs(place).env("RANK", rank.to_string());
            command
        };
        [0, 1].map(rank).into()
    };
    interrupted(ranks(), &run.join("trace-of-2-ranks/shard-0-of-2"));
    let file = std::fs::read_to_string(run.join("config.json")).expect("the configuration");
    let kept: Value = serde_json::from_str(&file).expect("JSON");
    assert_eq!(kept["engine"]["device"], json!("cuda"), "a rank's own device is not the run's");
    let start = |mut rank: Command| rank.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let ranks: Vec<_> = ranks().into_iter().map(|rank| start(rank).expect("it starts")).collect();
    for rank in ranks {
        // What they say fits into a pipe.
        let output = rank.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Recordings and comparisons that a launcher shares out on one machine, too.
#[test]
fn parts_have_a_device_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["engine"]["device"] = json!("cuda");
        config["engine"]["threads"] = json!(1);
    });
    let [questions, results, json] =
        ["questions.jsonl", "results.jsonl", "report.json"].map(|name| folder.path().join(name));
    let part = |rank: usize, found: usize, name: &str, arguments: &[&str]| {
        let mut command = rehearsal(devices(found), name, arguments);
        let sizes = ["WORLD_SIZE", "LOCAL_WORLD_SIZE"].map(|name| (name, "2"));
        command.envs(sizes).env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
        command
    };
    let compare = ["compare", "--config", text(&config), "--constant", "1,4", "--limit", "4", "--questions"];
    let compare = [&compare[..], &[text(&questions), "--results", text(&results)]].concat();
    for rank in [0, 1] {
        successful(&mut part(rank, 2, "ltd-train", &compare));
    }
    // On different cards, and one comparison.
    let parts = [0, 1].map(|rank| folder.path().join(format!("results-{rank}-of-2.jsonl")));
    let report = ["report", "--json", text(&json), text(&parts[0]), text(&parts[1])];
    successful(&mut program("ltd-train", &report));
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("a report")).expect("JSON");
    assert_eq!(report["questions"], json!(4), "{report}");
    // The second card is missed where there is one.
    let out = folder.path().join("trace");
    let record = ["record", "--config", text(&config), "--questions", text(&questions), "--out", text(&out)];
    successful(&mut part(0, 1, "ltd-trace", &record));
    for (name, arguments) in [("ltd-trace", &record[..]), ("ltd-train", &compare)] {
        let message = refusal_of(&mut part(1, 1, name, arguments));
        assert!(message.contains("cuda:1"), "{message}");
    }
}

/// The message of `ltd-decode`, which must refuse a pair on a device.
fn refusal(machine: Machine, device: &str, pair: Pair) -> String {
    let arguments = decoding(pair, "f32", device, &["--mode", "ar"]);
    refusal_of(&mut rehearsal(machine, "ltd-decode", &arguments))
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let message = refusal(devices(2), "cuda:2", TINY[0]);
    assert!(message.contains("cuda:2: this machine has 2 CUDA device(s), numbered from 0"), "{message}");
    let message = refusal(devices(0), "cuda", TINY[0]);
    let expected = "LibTorch finds no CUDA device on this machine: no CUDA-capable device is detected";
    assert!(message.contains(expected), "{message}");
}

/// Before anything is loaded, and with the sizes.
#[test]
fn a_device_without_room_for_the_weights_is_named() {
    let machine = Machine { devices: 2, memory: 400 << 20 };
    let message = refusal(machine, "cuda:1", DEFAULT);
    let expected =
        "cuda:1: weights and caches of its part take 0.63 GiB, but 0.39 GiB of its 0.39 GiB are free; lower";
    assert!(message.contains(expected), "{message}");
    let message = refusal(machine, "cuda:0,cuda:1", DEFAULT);
    assert!(message.contains("cuda:1: weights and caches of its part take 0.49 GiB"), "{message}");
}

#[test]
fn memory_that_another_program_holds_is_not_free() {
    let arguments = decoding(DEFAULT, "f32", "cuda", &["--mode", "ar"]);
    let held = |arguments: &[&str]| {
        let mut command = rehearsal(devices(1), "ltd-decode", arguments);
        refusal_of(command.env("LTD_SIM_HELD", ((80_u64 << 30) - (400 << 20)).to_string()))
    };
    let message = held(&arguments);
    let expected = "but 0.39 GiB of its 80.00 GiB are free; end the programs that hold the rest, or lower";
    assert!(message.contains(expected), "{message}");
    let message = held(&decoding(DEFAULT, "f32", "auto", &["--mode", "ar"]));
    assert!(message.contains("of which 0.39 GiB are free"), "{message}");
}

#[test]
fn a_libtorch_of_another_version_is_named() {
    let mut command = program("ltd-decode", &decoding(DEFAULT, "f32", "cuda", &["--mode", "ar"]));
    ltd_cuda_sim::rehearse_another_version(&mut command);
    let message = refusal_of(&mut command);
    let expected = "device cuda: LibTorch is 2.10.0, and its functions are known for 2.11 only";
    assert!(message.contains(expected), "{message}");
}

/// Room for the weights, but not for what a forward needs besides.
#[test]
fn memory_that_ends_on_the_way_is_an_error_with_the_sizes() {
    let more = [MODES[2], &["--max-length", "128", "--max-new-tokens", "8"]].concat();
    let arguments = decoding(DEFAULT, "f32", "cuda", &more);
    // 0.6 GiB of weights, and 6 MB of caches.
    let machine = Machine { devices: 1, memory: 640 << 20 };
    let output = rehearsal(machine, "ltd-decode", &arguments).output().expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("device cuda:0 is out of memory: "), "{message}");
    assert!(message.contains(" of its 640 MiB are free") && !message.contains("panicked"), "{message}");
}
