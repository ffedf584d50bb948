//! Exports of synthetic runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ltd_export::{Error, export};
use ltd_policy::{
    Actions, Choice, DepthActions, FrozenPolicy, Linear, Manifest, Mlp, ModelIdentity, ObservationLayout,
    PolicyEntry, PolicyPackage, SizeActions,
};
use tch::{CModule, Tensor};

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

fn entry(policy: &FrozenPolicy, file: &str) -> PolicyEntry {
    let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
    PolicyEntry::Learned { file: file.to_owned(), layout, actions, is_constant: false }
}

/// A run with the stages `01-size` (depth constant) and `02-depth`, of which the second is selected.
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
        latency_table_sha256: None,
        objective: "gain".to_owned(),
        expected: None,
        acceptance_per_depth: vec![0.5],
        depth,
        size,
        files: BTreeMap::new(),
    };
    let run = folder.join("run");
    let (depth, size) =
        (entry(&depth_policy(), "depth.safetensors"), entry(&size_policy(), "size.safetensors"));
    for (stage, depth) in [("01-size", PolicyEntry::Constant { value: 3 }), ("02-depth", depth)] {
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
            "depth.safetensors",
            "depth.torchscript.pt",
            "manifest.json",
            "size.safetensors",
            "size.torchscript.pt"
        ]
    );
    let package = PolicyPackage::load(&out).expect("a package");
    assert_eq!(package.depth, Choice::Learned(depth_policy()));
    assert_eq!(package.size, Choice::Learned(size_policy()));
    assert_eq!(package.manifest.files.len(), 4);
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
    export(&run, Some("01-size"), &out).expect("an export");
    assert_eq!(entries(&out), ["manifest.json", "size.safetensors", "size.torchscript.pt"]);
    assert_eq!(PolicyPackage::load(&out).expect("a package").depth, Choice::Constant(3));
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
    assert!(refused(folder.path(), None, &out).contains("is no run"));
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
