//! The command on the tiny pair.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn tiny(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair").join(part)
}

/// A configuration for the tiny pair, as a file.
fn config(folder: &Path) -> PathBuf {
    let questions = folder.join("questions.jsonl");
    let lines = ["Once upon a time", "In the beginning", "def add(a, b):"].map(|text| {
        let ids: Vec<u32> = text.bytes().map(|byte| u32::from(byte) + 4).collect();
        json!({ "token_ids": ids }).to_string() + "\n"
    });
    std::fs::write(&questions, lines.concat()).expect("written");
    let set = |skip: usize| json!({ "file": questions, "skip": skip, "take": 1 });
    let config = json!({
        "engine": {
            "target": tiny("target"), "draft": tiny("draft"), "dtype": "f32", "max_depth": 5, "max_length": 128
        },
        "prompts": { "train": set(0), "validation": set(1), "evaluation": set(2) },
        "depth": { "actions": { "max_depth": 5 } },
        "evaluation": { "default": { "depth": 5, "size": 40 }, "grid": { "depths": [1], "sizes": [4] } }
    });
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).expect("written");
    path
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ltd-bench")).arg("engine").args(arguments).output().expect("it starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What is measured in a second.
const SHORT: [&str; 12] = [
    "--tokens",
    "1,8",
    "--trees",
    "4x20,1x4",
    "--context",
    "32",
    "--max-new-tokens",
    "24",
    "--repeats",
    "5",
    "--memory-cycles",
    "20",
];

/// The report of a run that must succeed, and what it printed.
fn report(arguments: &[&str], json: &Path) -> (Value, String) {
    let output = bench(&[&["--json", text(json)], &SHORT[..], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read_to_string(json).expect("a report");
    (serde_json::from_str(&report).expect("JSON"), String::from_utf8(output.stdout).expect("UTF-8"))
}

fn number(value: &Value, key: &str) -> f64 {
    let number = value[key].as_f64();
    number.unwrap_or_else(|| panic!("{key} is not a number in {value}"))
}

fn assert_spread(row: &Value, key: &str) {
    let quartiles: Vec<f64> =
        serde_json::from_value(row[format!("{key}_quartiles")].clone()).expect("quartiles");
    let median = number(row, key);
    assert!(0.0 < quartiles[0] && quartiles[0] <= median && median <= quartiles[1], "{key} in {row}");
}

fn assert_sane(report: &Value) {
    assert_spread(&report["autoregressive"], "tokens_per_second");
    assert_spread(&report["autoregressive"], "ms");
    let rows = |key: &str| report[key].as_array().unwrap_or_else(|| panic!("{key} is not a list")).clone();
    let (verify, levels, cycles) = (rows("verify"), rows("draft_level"), rows("cycles"));
    let column = |rows: &[Value], key: &str| rows.iter().map(|row| number(row, key)).collect::<Vec<_>>();
    assert_eq!(column(&verify, "tokens"), [1.0, 8.0]);
    assert_eq!(column(&levels, "depth"), [1.0, 4.0]);
    assert_eq!((column(&cycles, "depth"), column(&cycles, "size")), (vec![4.0, 1.0], vec![20.0, 4.0]));
    for row in verify.iter().chain(&levels) {
        assert_spread(row, "ms");
        assert_spread(row, "products_ms");
        let kernels = row["kernels_ms"].as_object().expect("times by kernel");
        assert!(kernels.contains_key("engine") && kernels.contains_key("libtorch"), "{row}");
        let fastest = kernels.values().filter_map(Value::as_f64).fold(f64::INFINITY, f64::min);
        assert_eq!(number(row, "products_ms"), fastest);
        assert!((number(row, "ratio") - number(row, "ms") / fastest).abs() < 1e-9, "{row}");
        assert!(number(row, "floor_ms") > 0.0, "{row}");
    }
    for row in &cycles {
        assert_spread(row, "ms");
        assert!(number(row, "acceptance_length") >= 1.0 && number(row, "floor_ms") > 0.0, "{row}");
    }
    let outside = number(report, "outside_forwards_share");
    assert!(0.0 < outside && outside < 1.0, "{outside}");
    let memory = &report["memory"];
    let needed = number(memory, "weight_bytes") + number(memory, "cache_bytes");
    assert!(number(&memory["after_load"], "resident_bytes") > needed, "{memory}");
    assert_eq!(number(memory, "cycles"), 20.0);
    assert!(number(&report["limits"], "bytes_per_second") > 1e8, "{}", report["limits"]);
    assert!(number(&report["machine"], "cores") >= 1.0 && number(report, "threads") >= 1.0);
}

#[test]
fn a_pair_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("engine.json");
    let (report, table) = report(&["--config", text(&config(folder.path())), "--per-op"], &json);
    assert_sane(&report);
    let operations = report["operations"].as_array().expect("a list");
    assert_eq!(operations.len(), 2);
    for (times, tokens) in operations.iter().zip([1.0, 8.0]) {
        assert_eq!(number(times, "tokens"), tokens);
        for part in ["attention", "attention_products", "mlp", "mlp_products", "logits", "rest"] {
            assert!(number(times, &format!("{part}_ms")) > 0.0, "{part} in {times}");
        }
    }
    assert_eq!((&report["dtype"], &report["random_weights"]), (&json!("f32"), &json!(false)));
    // Weights in f32, and caches of 128 positions, with room for 5 levels of 10 in the draft's.
    let stored = |part: &str| tiny(part).join("model.safetensors").metadata().expect("weights").len() as f64;
    let ratio = number(&report["memory"], "weight_bytes") / (stored("target") + stored("draft"));
    assert!((0.97..=1.0).contains(&ratio), "{ratio}");
    // 8 layers of the target, one of the draft, keys and values of one head of 32 numbers in f32.
    let positions = f64::from(8 * 128 + 128 + 5 * 10);
    assert_eq!(number(&report["memory"], "cache_bytes"), positions * f64::from(2 * 32 * 4));
    for words in ["| V = 8 | ", "| draft level 4, W = 10 | ", "| 1, 4 | ", "autoregressive: ", "GB/s"] {
        assert!(table.contains(words), "{words} in {table}");
    }
}

#[test]
fn random_weights_of_given_dimensions_are_measured_and_labelled() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("engine.json");
    let model = tiny("target").join("config.json");
    let arguments = ["--random-weights", text(&model), "--dtype", "bf16", "--prompts", "2"];
    let (report, table) = report(&arguments, &json);
    assert_sane(&report);
    assert_eq!((&report["dtype"], &report["random_weights"]), (&json!("bf16"), &json!(true)));
    let label = format!("random weights, dimensions of {}", model.display());
    assert_eq!(report["target"], json!(label));
    assert!(report.get("operations").is_none(), "{report}");
    assert!(table.contains(&label), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = config(folder.path());
    let json = folder.path().join("engine.json");
    let base = ["--config", text(&path), "--json", text(&json)];
    let with = |extra: &[&'static str]| -> Vec<String> {
        base.iter().chain(&SHORT).chain(extra).map(ToString::to_string).collect()
    };
    let nowhere = folder.path().join("nowhere/engine.json");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let model = tiny("target").join("config.json");
    for (arguments, message) in [
        (words(&["--config", "missing.json", "--json", text(&json)]), "missing.json: No such file"),
        (words(&["--config", text(&path), "--json", text(&nowhere)]), "nowhere does not exist"),
        (words(&["--config", text(&path), "--json", text(folder.path())]), "is a folder, expected a file"),
        (words(&["--json", text(&json)]), "--config <FILE>"),
        (words(&["--random-weights", text(&model), "--json", text(&json)]), "--dtype <DTYPE>"),
        (
            words(&["--random-weights", text(&model), "--json", text(&json), "--dtype", "auto"]),
            "dtype: is auto, but random weights have no type of their own",
        ),
        (
            words(&["--random-weights", text(&path), "--json", text(&json), "--dtype", "f32"]),
            "config.json: architectures is missing",
        ),
        (with(&["--set", "engine.beam_width=0"]), "engine.beam_width: must be at least 1"),
        (with(&["--set", "engine.device=cuda:77"]), "device cuda:77: "),
        (
            with(&["--set", "engine.max_length=30"]),
            "--context: is 32, but with 8 rows after them the cache of 30",
        ),
        (
            with(&[
                "--set",
                "engine.max_depth=3",
                "--set",
                "depth.actions.max_depth=3",
                "--set",
                "evaluation.default.depth=3",
                "--set",
                "stages.size.random_depth.max=3",
            ]),
            "--trees: depth 4 is beyond engine.max_depth = 3",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = bench(&arguments);
        let found = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {found}");
        assert!(found.contains(message), "{arguments:?}: {found}");
        assert!(!json.exists(), "{arguments:?}");
    }
    for (option, value, message) in [
        ("--tokens", "0,4", "invalid value '0' for '--tokens <V,..>': 0 is not in 1..=4096"),
        ("--repeats", "0", "invalid value '0' for '--repeats <N>': 0 is not in 1..=16777216"),
        ("--memory-cycles", "2", "--memory-cycles: is 2, too few for 3 trees"),
        ("--trees", "3x0", "invalid tree `3x0`"),
        ("--trees", "x", "invalid tree `x`"),
    ] {
        let output = bench(&[&base[..], &[option, value]].concat());
        let found = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {found}");
        assert!(found.contains(message), "{option} {value}: {found}");
    }
}
