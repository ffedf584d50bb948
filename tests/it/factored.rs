//! A factored package from its making to the text that it decodes.

use std::collections::BTreeMap;
use std::path::Path;

use ltd::export::Forms;
use ltd::policy::{
    DecisionCost, DepthActions, Factored, FactoredActions, FactoredRule, Fallback, FrozenPredictor,
    GridPoint, LatencyIdentity, LatencyTable, Linear, Manifest, Mlp, ModelIdentity, ObservationLayout,
    Policy, PolicyEntry, PolicyKind, PolicyPackage, SamplingParams, SizeActions, Surface, sha256_hex,
};
use serde_json::{Value, json};

use crate::command::{TINY, refusal, run, text, workspace};

const RULE: FactoredRule = FactoredRule { tokens_per_second: 100.0, margin: 0.0 };

/// A predictor that expects, whatever it sees, 0.4 tokens more per level and step of size.
fn predictor() -> FrozenPredictor {
    let actions = FactoredActions {
        depth: DepthActions { min_depth: 0, max_depth: 5, decide_every: 1 },
        size: SizeActions { sizes: vec![4, 10, 30] },
    };
    let layout = ObservationLayout::compact(PolicyKind::Depth, 10, 12);
    let probes = vec![vec![0.1; layout.len()]; 2];
    let bias = (0..18).map(|index| 0.4 * ((index / 3 + 1) * (index % 3 + 1)) as f32).collect();
    let linear = Linear { weight: vec![0.0; 18 * layout.len()], bias, inputs: layout.len() };
    FrozenPredictor::new(layout, actions, Mlp::new(&[linear]), probes)
}

/// A model of the tiny pair.
fn model(part: &str) -> ModelIdentity {
    ltd::engine::fingerprint(&workspace().join("tests/fixtures/tiny-pair").join(part)).expect("a fingerprint")
}

fn table(level_ms: f32) -> LatencyTable {
    let surface = |last: usize, ms: f32| Surface {
        points: [1, last].map(|count| GridPoint::new(count, 100, vec![ms; 3])).into(),
    };
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: model("target").sha256,
            draft: model("draft").sha256,
            dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
            driver: None,
            threads: 2,
            machine: "a test machine".to_owned(),
            beam_width: 10,
        },
        root: surface(6, 1.0),
        level: surface(5, level_ms),
        level_rows: None,
        verify: surface(30, 10.0),
        decision: DecisionCost::default(),
        held_out_error: None,
    }
}

fn package() -> PolicyPackage {
    let predictor = predictor();
    let latency = table(1.0);
    let manifest = Manifest {
        format_version: Manifest::VERSION,
        created_by: "test".to_owned(),
        run: "run".to_owned(),
        stage: "01-factored".to_owned(),
        seed: 1,
        compat: None,
        beam_width: 10,
        depth_cap: 12,
        target: model("target"),
        draft: model("draft"),
        dtype: "f32".to_owned(),
        device: "cpu".to_owned(),
        threads: Some(2),
        sampling: Some(SamplingParams::default()),
        latency_table_sha256: Some(sha256_hex(latency.to_json().as_bytes())),
        objective: "gain".to_owned(),
        expected: None,
        acceptance_per_depth: Vec::new(),
        policy: PolicyEntry::Factored {
            file: "factored.safetensors".to_owned(),
            layout: predictor.layout().clone(),
            actions: predictor.actions().clone(),
            latency_table: "latency.json".to_owned(),
            tokens_per_second: 100.0,
            margin: 0.0,
            source: None,
        },
        fallback: None,
        files: BTreeMap::new(),
    };
    PolicyPackage {
        manifest,
        policy: Policy::Factored(Factored { predictor, latency, rule: RULE, source: None }),
    }
}

/// The package on the machine of another table.
fn elsewhere(latency: LatencyTable) -> PolicyPackage {
    package()
        .retargeted(Factored { predictor: predictor(), latency, rule: RULE, source: None })
        .expect("another machine")
}

/// Depths and sizes of all cycles, all new tokens, and what was said on standard error.
fn decode(mode: &[&str]) -> (Vec<(u64, u64)>, Value, String) {
    let common = ["--json", "--max-new-tokens", "24", "--token-ids", "1 70 105 118 36"];
    let output = run("ltd-decode", &[&TINY[..], &common, mode].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (total, cycles) = lines.split_last().expect("a total");
    let number = |line: &Value, key: &str| line[key].as_u64().expect("a number");
    let shapes = cycles.iter().map(|line| (number(line, "draft_depth"), number(line, "verification_size")));
    (shapes.collect(), total["output_ids"].clone(), errors)
}

fn decode_with(package: &PolicyPackage, folder: &Path, name: &str) -> (Vec<(u64, u64)>, Value, String) {
    let out = folder.join(name);
    ltd::export::write(package, &Forms::Suitable, &out).expect("it is written");
    decode(&["--mode", "policy", "--policy", text(&out)])
}

#[test]
fn a_factored_package_decodes_by_the_table_it_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, plain, _) = decode(&["--mode", "ar"]);
    assert_ne!(plain, json!([]));

    // 1.2 more tokens per level of 1 ms, at 0.1 tokens per millisecond: as deep as possible. Some
    // trees have no candidate in their fourth level that is among the best 30.
    let (shapes, output, errors) = decode_with(&package(), folder.path(), "cheap");
    assert!(
        shapes.contains(&(5, 30)) && shapes.iter().all(|&(depth, size)| depth >= 4 && size == 30),
        "{shapes:?}"
    );
    assert_eq!(output, plain);
    assert!(
        errors.contains("decisions by times measured on a test machine (cpu, f32, 2 threads)"),
        "{errors}"
    );

    // A level of 60 ms costs 6 tokens: the root's own candidates, of which there are 10.
    let dear = elsewhere(table(60.0));
    let (shapes, output, _) = decode_with(&dear, folder.path(), "dear");
    assert!(shapes.iter().all(|shape| *shape == (0, 10)), "{shapes:?}");
    assert_eq!(output, plain);

    let mut fallback = package();
    let reason = "predicted gain over it -0.3 %".to_owned();
    fallback.manifest.fallback = Some(Fallback { depth: 2, size: 7, copies: None, reason });
    let (shapes, output, errors) = decode_with(&fallback, folder.path(), "fallback");
    assert!(shapes.iter().all(|shape| *shape == (2, 7)), "{shapes:?}");
    assert_eq!(output, plain);
    assert!(
        errors.contains("depth 2 and size 7 decide instead of the policy: predicted gain over it -0.3 %")
    );
}

#[test]
fn other_conditions_than_the_policy_was_made_for_are_warned_of_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("package");
    ltd::export::write(&package(), &Forms::Suitable, &out).expect("it is written");
    let warnings = |settings: &[&str]| {
        let mode = ["--mode", "policy", "--policy", text(&out), "--threads", "2"];
        let (_, _, errors) = decode(&[&mode[..], settings].concat());
        errors.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(warnings(&[]).is_empty());
    assert_eq!(
        warnings(&["--temperature", "0.8", "--top-k", "40"]),
        ["ltd-decode: warning: the policy was made for sampling greedy (here: temperature 0.8, top-k 40): \
          a constant may be better here"]
    );
    let there = LatencyTable {
        identity: LatencyIdentity { dtype: "bf16".to_owned(), threads: 1, ..table(1.0).identity },
        ..table(1.0)
    };
    let elsewhere = elsewhere(there);
    std::fs::remove_dir_all(&out).expect("removed");
    ltd::export::write(&elsewhere, &Forms::Suitable, &out).expect("it is written");
    assert_eq!(
        warnings(&[]),
        ["ltd-decode: warning: the policy was made for dtype bf16 (here: f32), threads 1 (here: 2): \
          a constant may be better here"]
    );
    // Nobody is told who does not let it decide.
    let (_, _, errors) = decode(&["--mode", "static", "--depth", "2", "--size", "9", "--temperature", "1"]);
    assert!(!errors.contains("warning"), "{errors}");
}

#[test]
fn a_package_of_other_models_or_other_quirks_is_refused_unless_any_models_may_be_steered() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("package");
    let other = ModelIdentity { name: "another-head".to_owned(), sha256: "0123456789abcdef".to_owned() };
    let mut package = package();
    let Policy::Factored(factored) = &mut package.policy else { panic!("a factored policy") };
    factored.latency.identity.draft.clone_from(&other.sha256);
    package.manifest.latency_table_sha256 = Some(sha256_hex(factored.latency.to_json().as_bytes()));
    package.manifest.draft = other;
    ltd::export::write(&package, &Forms::Suitable, &out).expect("it is written");
    let mode = ["--mode", "policy", "--policy", text(&out)];
    let prompt = ["--max-new-tokens", "4", "--token-ids", "1 70 105"];
    let message = refusal("ltd-decode", &[&TINY[..], &mode, &prompt].concat());
    let here = format!("that of this command is {}", model("draft"));
    assert!(
        message.contains("package: its draft is another-head (0123456789ab), ") && message.contains(&here),
        "{message}"
    );
    assert!(!message.contains("its target"), "{message}");
    decode(&[&mode[..], &["--any-models"]].concat());
    // The trees must be as wide all the same.
    let wide = ["--any-models", "--beam-width", "4"];
    refusal("ltd-decode", &[&TINY[..], &mode, &prompt, &wide].concat());

    let config = crate::command::config(folder.path(), |_| ());
    let compare = ["compare", "--config", text(&config), "--policy", text(&out), "--constant", "1,4"];
    let message = refusal("ltd-train", &compare);
    assert!(message.contains("its draft is another-head (0123456789ab), that of the configuration is draft"));
    let measured = folder.path().join("compared.json");
    let rule = ["--any-models", "--whole-beam", "3,12", "--copy-rule", "2,8,1,4", "--json", text(&measured)];
    let output = run("ltd-train", &[&compare[..], &rule].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compared = String::from_utf8_lossy(&output.stdout).into_owned();
    let gain = "over depth 1, size 4, copying 8 tokens where 2 match, the fastest rule of those measured.";
    assert!(compared.contains(gain), "{compared}");
    let measured: Value =
        serde_json::from_str(&std::fs::read_to_string(&measured).expect("it is written")).expect("JSON");
    assert_eq!(measured["parts"][0]["best_constant"], "depth 1, size 4");
    assert_eq!(measured["parts"][0]["best_copy_rule"], "depth 1, size 4, copying 8 tokens where 2 match");
    // Each over itself.
    assert_eq!(measured["parts"][0]["contenders"][1]["speedup_vs_static"], 1.0);
    assert_eq!(measured["parts"][0]["contenders"][3]["speedup_vs_copies"], 1.0);
    let loops = measured["parts"][0]["loop_share"].as_f64().expect("a share") > 0.0;
    assert_eq!(compared.contains("tokens are in loops"), loops, "{compared}");

    let path = out.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).expect("the manifest");
    std::fs::write(&path, manifest.replacen("\"compat\": null", "\"compat\": \"eagle-official\"", 1))
        .expect("written");
    for mode in [&mode[..], &[&mode[..], &["--any-models"]].concat()] {
        let message = refusal("ltd-decode", &[&TINY[..], mode, &prompt].concat());
        assert!(message.contains("manifest.json: compat is `eagle-official`, expected null"), "{message}");
    }
}
