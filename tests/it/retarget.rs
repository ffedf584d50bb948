//! A run on its own recordings, and its packages on another machine.

use std::path::Path;

use ltd::policy::{Policy, PolicyPackage, SamplingParams};
use serde_json::{Value, json};

use crate::command::{self, config, refusal, stdout, text};
use crate::machine::machine;

/// The trace is greedy, and so is the configuration.
fn warns_of_a_policy_that_was_not_trained_greedily(
    package: &Path,
    config: &Path,
    trace: &Path,
    latency: &Path,
) {
    let manifest = package.join("manifest.json");
    let mut changed: Value =
        serde_json::from_slice(&std::fs::read(&manifest).expect("the manifest")).expect("JSON");
    changed["sampling"]["temperature"] = json!(1.0);
    std::fs::write(&manifest, changed.to_string()).expect("written");
    let inputs = ["--policy", text(package), "--trace", text(trace), "--latency", text(latency)];
    let out = package.with_extension("greedy");
    for (program, arguments) in [
        ("ltd-trace", [&["oracle"], &inputs[..], &["--trace", text(trace)]].concat()),
        ("ltd-train", vec!["compare", "--config", text(config), "--policy", text(package)]),
        ("ltd-train", [&["retarget"], &inputs[..], &["--out", text(&out), "--steps", "256"]].concat()),
    ] {
        let output = command::run(program, &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let found = errors.matches("the policy was made for sampling temperature 1 (here: greedy): ").count();
        assert_eq!(found, 1, "{program}: {errors}");
    }
    // It is for the trace's sampling from then on.
    let retargeted = PolicyPackage::load(&out).expect("a package");
    assert_eq!(retargeted.manifest.sampling, Some(SamplingParams::default()));
}

#[test]
fn packages_of_both_kinds_move_to_another_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there) = (folder.path().join("here.json"), folder.path().join("there.json"));
    machine(1.0).write(&here).expect("written");
    // Levels cost fifty times as much.
    let table = machine(50.0);
    table.write(&there).expect("written");
    let config = config(folder.path(), |config| {
        config["reward"] = json!("gain");
        config["replay"] = json!({ "held_out": 0.3, "latency": here });
        config["stages"] = json!({
            "size": null, "predictor": { "epochs": 2, "net_arch": [16] }, "imitation": { "epochs": 2 },
            "depth": { "total_timesteps": 256, "verification_size": 4 }, "rounds": 0
        });
    });
    let run = folder.path().join("run");
    let summary = stdout("ltd-train", &["--config", text(&config), "--run-dir", text(&run)]);
    assert!(summary.contains("| factored ") && summary.contains("| pair "), "{summary}");

    let trace = run.join("trace");
    for stage in ["01-predictor", "02-imitation", "03-depth"] {
        let (old, new) = (folder.path().join(stage), folder.path().join(format!("{stage}-there")));
        stdout("ltd-export", &["--run", text(&run), "--stage", stage, "--out", text(&old)]);
        let said = stdout(
            "ltd-train",
            &[
                "retarget",
                "--policy",
                text(&old),
                "--trace",
                text(&trace),
                "--latency",
                text(&there),
                "--out",
                text(&new),
                "--steps",
                "256",
            ],
        );
        let untouched = said.lines().find(|line| line.starts_with("| untouched")).expect("a row");
        assert!(said.contains("| clairvoyant |") && untouched.contains('%'), "{said}");
        let [old, new] = [&old, &new].map(|path| PolicyPackage::load(path).expect("a package"));
        assert_ne!(new.manifest.latency_table_sha256, old.manifest.latency_table_sha256);
        assert_eq!(old.manifest.sampling, Some(SamplingParams::default()));
        assert_eq!(
            new.conditions().device.as_deref().map(|device| device.trim_end_matches(" ()")),
            Some("the other")
        );
        match (&old.policy, &new.policy) {
            (Policy::Factored(old), Policy::Factored(new)) => {
                assert_eq!(new.latency, table);
                // Less in trees; with copies, which cost the same there, perhaps not.
                let worth = [old, new].map(|factored| factored.rule.tokens_per_second.to_bits());
                assert_ne!(worth[0], worth[1], "time is worth something else there");
            }
            (Policy::Pair { .. }, Policy::Pair { .. }) => {}
            _ => panic!("another kind"),
        }
    }

    compare(folder.path(), &config);
    warns_of_a_policy_that_was_not_trained_greedily(&folder.path().join("03-depth"), &config, &trace, &here);

    let out = folder.path().join("refused");
    let mut stranger = table;
    stranger.identity.draft = "another".to_owned();
    stranger.write(&there).expect("written");
    let old = folder.path().join("01-predictor");
    let message = refusal(
        "ltd-train",
        &[
            "retarget",
            "--policy",
            text(&old),
            "--trace",
            text(&trace),
            "--latency",
            text(&there),
            "--out",
            text(&out),
        ],
    );
    assert!(message.contains("identity.draft: is another"), "{message}");
    assert!(!out.exists(), "a refused package leaves nothing behind");
}

/// The packages of the run's stages beside two constants, on live cycles.
fn compare(folder: &Path, config: &Path) {
    let report = folder.join("compared.json");
    let [factored, pair] = ["01-predictor", "03-depth"].map(|stage| folder.join(stage));
    let shared = ["compare", "--config", text(config), "--policy", text(&factored), "--policy", text(&pair)];
    let fixed = ["--constant", "0,4", "--constant", "2,12", "--json", text(&report)];
    let said = stdout("ltd-train", &[&shared[..], &fixed].concat());
    let rows: Vec<&str> = said.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    for (row, name) in
        rows.iter().zip(["ar", "depth 0, size 4", "depth 2, size 12", text(&factored), text(&pair)])
    {
        assert!(row.starts_with(&format!("| {name} ")) && row.ends_with("2/2 |"), "{said}");
    }
    assert_eq!(rows.len(), 5, "{said}");
    let compared: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    let rate =
        |row: usize, what: &str| compared["parts"][0]["contenders"][row][what].as_f64().expect("a number");
    let fastest = if rate(1, "tokens_per_second") > rate(2, "tokens_per_second") { 1 } else { 2 };
    assert_eq!(compared["parts"][0]["best_constant"], compared["parts"][0]["contenders"][fastest]["name"]);
    assert_eq!(rate(fastest, "speedup_vs_static"), 1.0);
    for row in 0..5 {
        let ratio = rate(row, "tokens_per_second") / rate(fastest, "tokens_per_second");
        assert!((rate(row, "speedup_vs_static") - ratio).abs() < 1e-9, "{compared}");
    }
    let shallow = "--set engine.max_depth=3 --set depth.actions.max_depth=3 --set evaluation.default.depth=3 --constant 1,4";
    for (arguments, expected) in [
        ("--constant 3", "expected a depth and a size, such as 3,24"),
        ("--constant 1,100000", "SIZE is 100000, expected 1..=4096"),
        ("--constant 8,24", "--constant: depth 8 is asked for, engine.max_depth allows 7"),
        ("--set engine.beam_width=4", "its beam width is 10, that of the configuration is 4"),
        (
            shallow,
            "deepest draft of its policies is 5, expected at most 3, as deep as the configuration drafts",
        ),
        ("--max-minutes 0", "is 0.0 minutes, must be within 1e-6..=1000000.0"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let message = refusal("ltd-train", &[&shared[..], &arguments].concat());
        assert!(message.contains(expected), "{message}");
    }
}
