//! Exports of synthetic runs.

mod official;
mod servers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ltd_export::{Error, Form, Forms};
use ltd_policy::{
    Actions, Choice, ChoiceEntry, DecisionCost, DepthActions, Factored, FactoredActions, FactoredRule,
    FactoredSource, FactoredSourceEntry, Fallback, FrozenPolicy, FrozenPredictor, FrozenSourcePredictor,
    LatencyIdentity, LatencyTable, Linear, Manifest, Mlp, ModelIdentity, ObservationLayout, Policy,
    PolicyEntry, PolicyKind, PolicyPackage, SamplingParams, SizeActions, SourceActions, SourceChoice,
    SourceEntry, SourceOutcomes, Surface, TokenRecord, sha256_hex,
};
use tch::{CModule, Tensor};

fn export(run: &Path, stage: Option<&str>, out: &Path) -> ltd_export::Result<ltd_export::Export> {
    ltd_export::export(run, stage, &Forms::Suitable, out)
}

fn write(package: &PolicyPackage, out: &Path) -> ltd_export::Result<ltd_export::Export> {
    ltd_export::write(package, &Forms::Suitable, out)
}

fn mlp(widths: &[usize]) -> Mlp {
    let value = |index: usize| (index as f32 * 0.618).sin() * 0.3;
    let layers: Vec<Linear> = widths
        .windows(2)
        .map(|pair| Linear {
            weight: (0..pair[0] * pair[1]).map(value).collect(),
            bias: (0..pair[1]).map(|index| value(index + 5)).collect(),
            inputs: pair[0],
        })
        .collect();
    Mlp::new(&layers)
}

fn probes(len: usize) -> Vec<Vec<f32>> {
    (0..5)
        .map(|probe| (0..len).map(|index| -((index * (probe + 1)) as f32 * 0.37).fract()).collect())
        .collect()
}

fn depth_policy() -> FrozenPolicy {
    let layout = ObservationLayout::reference_depth(3, 4);
    let actions = Actions::Depth(DepthActions { min_depth: 0, max_depth: 4, decide_every: 1 });
    let (mlp, probes) = (mlp(&[layout.len(), 16, 2]), probes(layout.len()));
    FrozenPolicy::new(layout, actions, mlp, probes)
}

fn size_policy() -> FrozenPolicy {
    let layout = ObservationLayout::reference_size(3, 4);
    let actions = Actions::Size(SizeActions { sizes: vec![2, 5, 9] });
    let (mlp, probes) = (mlp(&[layout.len(), 16, 8, 3]), probes(layout.len()));
    FrozenPolicy::new(layout, actions, mlp, probes)
}

fn entry(policy: &FrozenPolicy, file: &str) -> ChoiceEntry {
    let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
    ChoiceEntry::Learned { file: file.to_owned(), layout, actions, is_constant: false }
}

/// A run with the stages `01-size` (depth constant) and `02-depth`, of which the second is
/// selected.
fn run(folder: &Path) -> PathBuf {
    let model = |name: &str| ModelIdentity { name: name.to_owned(), sha256: "00".to_owned() };
    let manifest = |stage: &str, depth, size| Manifest {
        format_version: Manifest::VERSION,
        created_by: "test".to_owned(),
        run: "run".to_owned(),
        stage: stage.to_owned(),
        seed: 1,
        compat: None,
        beam_width: 3,
        depth_cap: 4,
        target: model("target"),
        draft: model("draft"),
        dtype: "f32".to_owned(),
        device: "cpu".to_owned(),
        threads: Some(2),
        sampling: Some(SamplingParams::default()),
        latency_table_sha256: None,
        objective: "gain".to_owned(),
        expected: None,
        acceptance_per_depth: vec![0.5],
        policy: PolicyEntry::Pair { depth, size, source: SourceEntry::default() },
        fallback: None,
        files: BTreeMap::new(),
    };
    let run = folder.join("run");
    let (depth, size) =
        (entry(&depth_policy(), "depth.safetensors"), entry(&size_policy(), "size.safetensors"));
    for (stage, depth) in [("01-size", ChoiceEntry::Constant { value: 3 }), ("02-depth", depth)] {
        let path = run.join("stages").join(stage);
        std::fs::create_dir_all(&path).expect("a folder");
        depth_policy().save(&path.join("depth.safetensors")).expect("saved");
        size_policy().save(&path.join("size.safetensors")).expect("saved");
        std::fs::write(path.join("stage.json"), manifest(stage, depth, size.clone()).to_json())
            .expect("written");
    }
    std::fs::write(run.join("selected.json"), r#"{"stage": "02-depth"}"#).expect("written");
    run
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = folder
        .read_dir()
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn the_selected_stage_becomes_a_package_that_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let out = folder.path().join("new/policies");
    let exported = export(&run, None, &out).expect("an export");
    assert_eq!((exported.manifest.stage.as_str(), exported.probes), ("02-depth", 5));
    assert_eq!(
        entries(&out),
        [
            "depth.onnx",
            "depth.safetensors",
            "depth.sb3.zip",
            "depth.torchscript.pt",
            "manifest.json",
            "size.onnx",
            "size.safetensors",
            "size.sb3.zip",
            "size.torchscript.pt"
        ]
    );
    let package = PolicyPackage::load(&out).expect("a package");
    let (depth, size) = (Choice::Learned(depth_policy()), Choice::Learned(size_policy()));
    assert_eq!(package.policy, Policy::Pair { depth, size, source: SourceChoice::Trees });
    assert_eq!(package.manifest.files.len(), 8);
    assert_eq!(entries(folder.path()), ["new", "run"], "nothing temporary is left");

    // A batch of any size goes through the module.
    let module = CModule::load(out.join("size.torchscript.pt")).expect("a module");
    let policy = size_policy();
    for rows in [1, 5] {
        let observations = policy.probes().observations[..rows].concat();
        let batch = Tensor::from_slice(&observations).view([rows as i64, policy.layout().len() as i64]);
        let logits =
            Vec::<Vec<f32>>::try_from(module.forward_ts(&[batch]).expect("logits")).expect("numbers");
        for (found, expected) in logits.concat().iter().zip(policy.probes().logits[..rows].concat()) {
            assert!((found - expected).abs() < 1e-4);
        }
    }
}

#[test]
fn another_stage_can_be_named_and_constants_need_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let out = folder.path().join("policies");
    std::fs::create_dir(&out).expect("an empty folder");
    let forms = Forms::These(vec![Form::Torchscript]);
    ltd_export::export(&run, Some("01-size"), &forms, &out).expect("an export");
    assert_eq!(entries(&out), ["manifest.json", "size.safetensors", "size.torchscript.pt"]);
    let policy = PolicyPackage::load(&out).expect("a package").policy;
    assert!(matches!(policy, Policy::Pair { depth: Choice::Constant(3), .. }));
}

fn latency_table(level_ms: f64) -> LatencyTable {
    let surface = |last: usize, ms: f64| Surface::from_fn(&[1, last], &[100], |_, _| ms);
    let (target, draft) = ("00".to_owned(), "00".to_owned());
    let identity = LatencyIdentity { target, draft, beam_width: 3, ..LatencyIdentity::default() };
    LatencyTable {
        version: LatencyTable::VERSION,
        identity,
        root: surface(5, 1.0),
        level: surface(4, level_ms),
        level_rows: None,
        verify: surface(9, 20.0),
        decision: DecisionCost::default(),
        held_out_error: None,
    }
}

/// Makes the policy of stage 02-depth a factored one.
fn make_factored(run: &Path) -> FrozenPredictor {
    let stage = run.join("stages/02-depth");
    let actions = FactoredActions {
        depth: DepthActions { min_depth: 0, max_depth: 4, decide_every: 1 },
        size: SizeActions { sizes: vec![2, 5, 9] },
    };
    let layout = ObservationLayout::compact(PolicyKind::Depth, 3, 4);
    let (mlp, probes) = (mlp(&[layout.len(), 16, 15]), probes(layout.len()));
    let predictor = FrozenPredictor::new(layout, actions, mlp, probes);
    predictor.save(&stage.join("factored.safetensors")).expect("saved");
    let table = latency_table(2.0);
    table.write(&stage.join("latency.json")).expect("saved");
    let manifest = Manifest::load(&stage.join("stage.json")).expect("a manifest");
    let policy = PolicyEntry::Factored {
        file: "factored.safetensors".to_owned(),
        layout: predictor.layout().clone(),
        actions: predictor.actions().clone(),
        latency_table: "latency.json".to_owned(),
        tokens_per_second: 50.0,
        margin: 0.05,
        source: None,
    };
    let latency_table_sha256 = Some(sha256_hex(table.to_json().as_bytes()));
    let fallback =
        Some(Fallback { depth: 1, size: 5, copies: None, reason: "predicted gain -1 %".to_owned() });
    let manifest = Manifest { policy, latency_table_sha256, fallback, ..manifest };
    std::fs::write(stage.join("stage.json"), manifest.to_json()).expect("written");
    predictor
}

#[test]
fn a_factored_policy_is_exported_with_its_table_and_retargeted() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let predictor = make_factored(&run);
    let out = folder.path().join("policies");
    let exported = export(&run, None, &out).expect("an export");
    let files =
        ["factored.onnx", "factored.safetensors", "factored.torchscript.pt", "latency.json", "manifest.json"];
    assert_eq!((entries(&out), exported.probes), (files.map(String::from).to_vec(), 5));
    let package = PolicyPackage::load(&out).expect("a package");
    assert!(package.manifest.fallback.is_some());

    // A predictor is no policy.
    let elsewhere = folder.path().join("sb3");
    let refused = ltd_export::export(&run, None, &Forms::These(vec![Form::Sb3]), &elsewhere);
    let message = refused.expect_err("no policy").to_string();
    assert!(message.starts_with("--format sb3: factored predicts"), "{message}");
    assert!(!elsewhere.exists());

    let other = folder.path().join("retargeted");
    let rule = FactoredRule { tokens_per_second: 30.0, margin: 0.02 };
    let elsewhere =
        Factored { predictor: predictor.clone(), latency: latency_table(7.0), rule, source: None };
    let moved = package.retargeted(elsewhere).expect("another machine");
    write(&moved, &other).expect("written");
    let Policy::Factored(factored) = PolicyPackage::load(&other).expect("a package").policy else {
        panic!("a factored policy")
    };
    assert_eq!((factored.predictor, factored.rule), (predictor, rule));
    assert_eq!(factored.latency, latency_table(7.0));
    let read = |path: PathBuf| std::fs::read(path).expect("a file");
    let script = "factored.torchscript.pt";
    let rows: Vec<Tensor> = vec![Tensor::zeros([2, 72], (tch::Kind::Float, tch::Device::Cpu))];
    let outputs = |path: PathBuf| CModule::load(path).expect("a module").forward_ts(&rows).expect("outputs");
    assert_eq!(outputs(out.join(script)), outputs(other.join(script)), "the predictor knows no machine");
    assert_ne!(read(out.join("latency.json")), read(other.join("latency.json")));
}

#[test]
fn a_source_is_exported_with_its_record_of_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let trees = make_factored(&run).actions().clone();
    let stage = run.join("stages/02-depth");
    let source = SourceActions { chains: vec![2, 4], merged: None };
    let outcomes = SourceOutcomes { source, trees, places: 4 };
    let layout = ObservationLayout::sequence_with_tokens(3, 4);
    let (mlp, probes) = (mlp(&[layout.len(), 16, 4 + 15]), probes(layout.len()));
    let predictor = FrozenSourcePredictor::new(layout, outcomes, mlp, probes);
    predictor.save(&stage.join("factored-source.safetensors")).expect("saved");
    let mut tokens = TokenRecord::default();
    tokens.observe(3, 4, true);
    // The name is the manifest's.
    std::fs::write(stage.join("known.json"), tokens.to_json()).expect("written");
    let mut manifest = Manifest::load(&stage.join("stage.json")).expect("a manifest");
    if let PolicyEntry::Factored { source, .. } = &mut manifest.policy {
        *source = Some(FactoredSourceEntry {
            file: "factored-source.safetensors".to_owned(),
            layout: predictor.layout().clone(),
            outcomes: predictor.actions().clone(),
            margin: 0.2,
            merged_margin: 0.0,
            caution: 0.7,
            tokens: Some("known.json".to_owned()),
        });
    }
    std::fs::write(stage.join("stage.json"), manifest.to_json()).expect("written");
    let out = folder.path().join("policies");
    export(&run, None, &out).expect("an export");
    let package = PolicyPackage::load(&out).expect("a package");
    let Policy::Factored(factored) = &package.policy else { panic!("a factored policy") };
    let source = factored.source.as_ref().expect("a source");
    assert_eq!((source.caution, source.tokens.as_deref()), (0.7, Some(&tokens)));

    // Retargeted, it keeps the name.
    tokens.observe(5, 6, false);
    let source = FactoredSource { tokens: Some(tokens.clone().into()), ..source.clone() };
    let elsewhere = Factored { latency: latency_table(7.0), source: Some(source), ..factored.clone() };
    let other = folder.path().join("retargeted");
    write(&package.retargeted(elsewhere).expect("another machine"), &other).expect("written");
    let known = TokenRecord::load(&other.join("known.json")).expect("a record");
    assert_eq!(known, tokens);
    assert!(!entries(&other).contains(&"tokens.json".to_owned()));
}

#[test]
fn compact_observations_are_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let stage = run.join("stages/02-depth");
    let layout = ObservationLayout::compact(PolicyKind::Size, 3, 4);
    let (mlp, probes) = (mlp(&[layout.len(), 16, 3]), probes(layout.len()));
    let policy = FrozenPolicy::new(layout, size_policy().actions().clone(), mlp, probes);
    policy.save(&stage.join("size.safetensors")).expect("saved");
    let manifest = Manifest::load(&stage.join("stage.json")).expect("a manifest");
    let depth = entry(&depth_policy(), "depth.safetensors");
    let pair =
        PolicyEntry::Pair { depth, size: entry(&policy, "size.safetensors"), source: SourceEntry::default() };
    let manifest = Manifest { policy: pair, ..manifest };
    std::fs::write(stage.join("stage.json"), manifest.to_json()).expect("written");
    let out = folder.path().join("policies");
    export(&run, None, &out).expect("an export");
    let loaded = PolicyPackage::load(&out).expect("a package").policy;
    assert!(matches!(loaded, Policy::Pair { size: Choice::Learned(size), .. } if size == policy));
}

#[test]
fn a_policy_that_computes_something_else_than_in_training_is_not_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let path = run.join("stages/02-depth/size.safetensors");
    let bytes = std::fs::read(&path).expect("the policy");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
    let logits = file.tensor("probe.logits").expect("logits").data();
    let offset = logits.as_ptr() as usize - bytes.as_ptr() as usize;
    let mut changed = bytes.clone();
    changed[offset..offset + 4].copy_from_slice(&7.5f32.to_le_bytes());
    std::fs::write(&path, changed).expect("written");
    let out = folder.path().join("policies");
    let error = export(&run, None, &out).expect_err("another function");
    assert!(
        matches!(&error, Error::Mismatch { policy, probe: 0, action: 0, .. } if policy == "size"),
        "{error}"
    );
    assert!(!error.is_usage());
    assert_eq!(entries(folder.path()), ["run"], "nothing is left behind");

    let bare = FrozenPolicy::new(
        size_policy().layout().clone(),
        size_policy().actions().clone(),
        size_policy().mlp().clone(),
        Vec::new(),
    );
    bare.save(&path).expect("saved");
    assert!(matches!(export(&run, None, &out), Err(Error::NoProbes { .. })));
}

#[test]
fn what_is_no_run_or_no_place_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let out = folder.path().join("policies");
    let refused = |run: &Path, stage: Option<&str>, out: &Path| {
        let error = export(run, stage, out).expect_err("refused");
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    assert!(
        refused(&run, Some("07-depth"), &out)
            .contains("no finished stage 07-depth: expected one of 01-size, 02-depth")
    );
    let no_run = refused(folder.path(), None, &out);
    assert!(no_run.contains("is not a run, whose folder has a folder `stages`: "), "{no_run}");
    let file = run.join("selected.json");
    let expected = format!("--run {}: is a file, expected the folder of a run", file.display());
    assert_eq!(refused(&file, None, &out), expected);
    let absent = refused(&run.join("absent"), None, &out);
    assert!(absent.ends_with("absent: does not exist, expected the folder of a run"), "{absent}");
    // Places are refused before anything is written near them.
    let up = folder.path().join("new/dot/..");
    let expected = format!("--out {}: does not end in a name, expected that of a new folder", up.display());
    assert_eq!(refused(&run, None, &up), expected);
    #[cfg(unix)]
    for target in ["nowhere", "empty"] {
        let link = folder.path().join("link");
        std::fs::create_dir_all(folder.path().join("empty")).expect("a folder");
        std::os::unix::fs::symlink(target, &link).expect("a link");
        for link in [link.clone(), link.join("")] {
            let expected = format!("--out {}: is a link, expected a new folder", link.display());
            assert_eq!(refused(&run, None, &link), expected);
        }
        std::fs::remove_file(link).expect("removed");
        std::fs::remove_dir(folder.path().join("empty")).expect("removed");
    }
    assert!(refused(&run, None, &run).contains("exists and is not empty"));
    assert!(refused(&run, None, &run.join("selected.json/x")).contains("selected.json/x: "));
    std::fs::remove_file(run.join("selected.json")).expect("removed");
    assert!(
        refused(&run, None, &out)
            .contains("is not finished: name the stage to export with --stage: 01-size, 02-depth")
    );
    std::fs::write(run.join("stages/02-depth/size.safetensors"), "x").expect("written");
    assert!(
        refused(&run, Some("02-depth"), &out).contains("size.safetensors: not a complete safetensors file")
    );
    assert_eq!(entries(folder.path()), ["run"]);
}

#[test]
fn what_killed_exports_left_goes_and_what_others_write_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let [dead, alive, other] =
        [".policies.exporting-dead", ".policies.exporting-alive", ".more.exporting-other"]
            .map(|name| folder.path().join(name));
    for path in [&dead, &alive, &other] {
        std::fs::create_dir(path).expect("a folder");
        std::fs::write(path.join("size.safetensors"), "").expect("written");
    }
    let writer = std::fs::File::open(&alive).expect("a folder");
    writer.try_lock().expect("locked");
    export(&run, None, &folder.path().join("policies")).expect("an export");
    assert!(!dead.exists() && alive.exists() && other.exists());
}

/// LibTorch ends the process where it cannot write.
#[test]
fn a_full_disk_is_an_error_with_every_file_of_a_package() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run(folder.path());
    let whole = folder.path().join("whole");
    export(&run, None, &whole).expect("an export");
    let length = |name: &str| whole.join(name).metadata().expect("a file").len();
    // In KiB: too little for any file, and for those of LibTorch only.
    let between = length("depth.safetensors") / 1024 + 1;
    assert!(between * 1024 < length("depth.torchscript.pt"), "a limit can lie between them");
    for limit in [0, between] {
        let out = folder.path().join("limited");
        let line = format!("ulimit -f {limit}; exec \"$0\" --run \"$1\" --out \"$2\"");
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_ltd-export")]).args([&run, &out]);
        let ended = command.output().expect("a shell");
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{limit} KiB: {errors}");
        let place = format!("ltd-export: --out {}", out.join("depth.").display());
        assert!(errors.starts_with(&place) && errors.contains(": File too large"), "{limit} KiB: {errors}");
        assert_eq!(entries(folder.path()), ["run", "whole"], "nothing is left behind");
    }
}
