//! Policies of the code published with the paper: what that code decided at made-up trees
//! (`scripts/fixtures/official_policies.py`), decided here.

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ltd_cycle::{Controller, DraftTree, Learned};
use ltd_export::{Export, Form, Forms, Imported, import, write};
use ltd_policy::{
    Actions, Activation, Choice, ChoiceEntry, Compat, CycleSummary, Frozen, FrozenPolicy, Manifest, Mlp,
    ModelIdentity, Models, ObservationLayout, Policy, PolicyEntry, PolicyPackage, SizeActions, official,
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};
use zip::write::FileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Logits may differ by this much: sums in another order, and another hyperbolic tangent, in f32.
const TOLERANCE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/official-policies").join(name)
}

fn archive(name: &str) -> Imported {
    Imported::Archive(fixture(name))
}

fn models() -> Models {
    let model = |name: &str| ModelIdentity { name: name.to_owned(), sha256: "00".to_owned() };
    Models { target: model("target"), draft: model("draft"), beam_width: 10 }
}

/// The package of the fixture, through the disk.
fn package(folder: &Path) -> PolicyPackage {
    let package = import(&archive("depth.zip"), &archive("size.zip"), models()).expect("an import");
    write(&package, &Forms::Suitable, folder).expect("written");
    PolicyPackage::load(folder).expect("a package")
}

fn pair(package: &PolicyPackage) -> [&FrozenPolicy; 2] {
    match &package.policy {
        Policy::Pair { depth: Choice::Learned(depth), size: Choice::Learned(size), .. } => [depth, size],
        other => panic!("a pair of policies, not {other:?}"),
    }
}

/// A cycle that the published code decided.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cycle {
    context: usize,
    asked: usize,
    depth: usize,
    size: usize,
}

fn cycles() -> Vec<Cycle> {
    let text = std::fs::read_to_string(fixture("cycles.jsonl")).expect("the fixture");
    text.lines().map(|line| serde_json::from_str(line).expect("a cycle")).collect()
}

/// The numbers of a tensor, row after row.
fn numbers(file: &SafeTensors, name: &str) -> Vec<f32> {
    let words = file.tensor(name).expect("a tensor").data().as_chunks().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// What the published code showed a policy and what its network answered, in its order.
struct Answers {
    observations: Vec<f32>,
    logits: Vec<f32>,
    next: usize,
    differ_from_reference: usize,
}

impl Answers {
    fn of(file: &SafeTensors, kind: &str) -> Self {
        let [observations, logits] =
            ["observations", "logits"].map(|what| numbers(file, &format!("{kind}.{what}")));
        Self { observations, logits, next: 0, differ_from_reference: 0 }
    }

    /// Compares the next ones.
    fn compare(&mut self, policy: &FrozenPolicy, reference: &ObservationLayout, summary: &CycleSummary) {
        let (inputs, outputs) = (policy.layout().len(), policy.actions().count());
        let mut observation = vec![f32::NAN; inputs];
        policy.layout().write_into(summary, &mut observation);
        let expected = &self.observations[self.next * inputs..][..inputs];
        assert_eq!(observation, expected, "bit for bit");
        let mut scratch = policy.mlp().scratch();
        let logits = policy.mlp().forward(&observation, &mut scratch);
        for (found, expected) in logits.iter().zip(&self.logits[self.next * outputs..][..outputs]) {
            assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{found} {expected}");
        }
        self.next += 1;
        reference.write_into(summary, &mut observation);
        self.differ_from_reference += usize::from(observation != expected);
    }

    fn rows(&self, policy: &FrozenPolicy) -> usize {
        self.observations.len() / policy.layout().len()
    }
}

#[test]
fn imported_policies_see_and_decide_what_they_did_in_the_published_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let package = package(&folder.path().join("package"));
    let [depth, size] = pair(&package);
    let mut controller = Learned::of_package(&package);
    let bytes = std::fs::read(fixture("cycles.safetensors")).expect("the fixture");
    let file = SafeTensors::deserialize(&bytes).expect("the fixture");
    let log_probs = numbers(&file, "log_probs");
    let [mut of_depth, mut of_size] = ["depth", "size"].map(|kind| Answers::of(&file, kind));
    let references = [ObservationLayout::reference_depth(10, 12), ObservationLayout::reference_size(10, 12)];
    let mut rest = &log_probs[..];
    let cycles = cycles();
    for cycle in &cycles {
        let (root, after) = rest.split_at(10);
        rest = after;
        let mut tree = DraftTree::within(root, (0..10).collect(), controller.size_limit());
        let asked_before = of_depth.next;
        loop {
            let summary = CycleSummary {
                scores: tree.scores(),
                beam_width: tree.beam_width(),
                frontier: tree.frontier().len(),
                draft_depth: tree.depth(),
                context_length: cycle.context,
            };
            assert_eq!(summary.frontier, 10, "all candidates are expanded");
            if [3, 6, 9].contains(&tree.depth()) {
                of_depth.compare(depth, &references[0], &summary);
            }
            if !controller.continue_drafting(&summary) {
                of_size.compare(size, &references[1], &summary);
                assert_eq!(controller.verification_size(&summary), cycle.size);
                break;
            }
            let (level, after) = rest.split_at(100);
            rest = after;
            tree.push_level(level, &[0; 100]);
        }
        assert_eq!((tree.depth(), of_depth.next - asked_before), (cycle.depth, cycle.asked));
    }
    assert!(rest.is_empty() && cycles.len() == 8);
    assert_eq!((of_depth.next, of_size.next), (of_depth.rows(depth), of_size.rows(size)));
    // The layouts of the paper would have shown them something else.
    assert_eq!(of_depth.differ_from_reference, of_depth.next);
    assert!(of_size.differ_from_reference > 0);
}

#[test]
fn an_imported_package_says_what_is_known_of_its_policies() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("package");
    let package = package(&out);
    let Manifest { compat, run, created_by, depth_cap, seed, .. } = &package.manifest;
    assert_eq!(
        (*compat, run.as_str(), *depth_cap, *seed),
        (Some(Compat::Official), "depth.zip, size.zip", 12, 23)
    );
    assert!(created_by.starts_with("stable-baselines3 2.9.2, imported by ltd-export "), "{created_by}");
    let text = std::fs::read_to_string(out.join("manifest.json")).expect("the manifest");
    assert!(text.contains(r#""compat": "official""#), "{text}");
    for policy in pair(&package) {
        assert_eq!((policy.mlp().activation(), policy.probes().observations.len()), (Activation::Tanh, 8));
    }
    let mut files: Vec<&str> = package.manifest.files.keys().map(String::as_str).collect();
    files.retain(|file| file.starts_with("size"));
    assert_eq!(
        files,
        ["size.official.zip", "size.onnx", "size.safetensors", "size.sb3.zip", "size.torchscript.pt"]
    );
    // Exported for the published code and imported again, they are the same.
    let again = Imported::Archive(out.join("depth.official.zip"));
    let size = Imported::Archive(out.join("size.official.zip"));
    assert_eq!(import(&again, &size, models()).expect("an import").policy, package.policy);
}

#[test]
fn either_decision_may_be_a_constant() {
    let package = import(&archive("depth.zip"), &Imported::Constant(59), models()).expect("an import");
    // The depth policy sees all candidates, also those that cannot be verified.
    assert_eq!(Learned::of_package(&package).size_limit(), usize::MAX);
    let package = import(&Imported::Constant(8), &archive("size.zip"), models()).expect("an import");
    assert_eq!(Learned::of_package(&package).size_limit(), usize::MAX);
    let Policy::Pair { depth: Choice::Constant(8), .. } = package.policy else { panic!("a constant") };

    let refused = |depth: &Imported, size: &Imported, beam_width| {
        let error = import(depth, size, Models { beam_width, ..models() }).expect_err("refused");
        assert!(error.is_usage());
        error.to_string()
    };
    let (depth, size) = (archive("depth.zip"), archive("size.zip"));
    for (message, expected) in [
        (refused(&Imported::Constant(8), &Imported::Constant(59), 10), "--depth and --size are both numbers"),
        (refused(&Imported::Constant(13), &size, 10), "--depth is 13, expected 1 to 12"),
        (refused(&depth, &Imported::Constant(0), 10), "--size is 0, expected 1 to 4096"),
        (refused(&depth, &size, 8), "--config: engine.beam_width is 8, expected 10"),
        (
            refused(&size, &depth, 10),
            "size.zip: its network has 1268 numbers and 24 actions of a size policy, \
            expected 128 numbers and 2 actions of a depth policy",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

/// The entries of an archive.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).expect("an archive");
    let count = archive.len();
    let entry = |index| {
        let mut entry = archive.by_index(index).expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        (entry.name().to_owned(), bytes)
    };
    (0..count).map(entry).collect()
}

fn zipped(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer
            .start_file(name, FileOptions::default().compression_method(CompressionMethod::Stored))
            .expect("an entry");
        writer.write_all(bytes).expect("written");
    }
    writer.finish().expect("an archive").into_inner()
}

/// Changes an entry of an archive; without a change it goes.
fn with(bytes: &[u8], name: &str, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let found = entries(bytes);
    assert!(found.iter().any(|(found, _)| found.ends_with(name)), "{name}");
    let changed = found.into_iter().filter_map(|(found, bytes)| {
        let bytes = if found.ends_with(name) { change(&bytes)? } else { bytes };
        Some((found, bytes))
    });
    zipped(&changed.collect::<Vec<_>>())
}

/// Changes an entry of the archive of PyTorch in an archive.
fn with_inner(bytes: &[u8], name: &str, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    with(bytes, "policy.pth", |inner| Some(with(inner, name, &change)))
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let place = bytes.windows(from.len()).position(|window| window == from).expect("what is replaced");
    [&bytes[..place], to, &bytes[place + from.len()..]].concat()
}

#[test]
fn what_is_no_archive_of_such_a_policy_is_refused_and_nothing_in_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("depth.zip");
    let whole = std::fs::read(fixture("depth.zip")).expect("the fixture");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        let imported = import(&Imported::Archive(path.clone()), &Imported::Constant(60), models());
        let Err(error) = imported else { return "was imported".to_owned() };
        assert!(error.is_usage(), "{error}");
        let message = error.to_string();
        assert!(message.starts_with(&*path.to_string_lossy()), "{message}");
        message
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: &[u8]| Some(replaced(bytes, from.as_bytes(), to.as_bytes()))
    };
    let pickle = |program: &'static [u8]| move |_: &[u8]| Some(program.to_vec());
    let json = |json: &'static str| with(&whole, "data", move |_| Some(json.as_bytes().to_vec()));
    let program = |change: &dyn Fn(&[u8]) -> Option<Vec<u8>>| with_inner(&whole, "data.pkl", change);
    let nan = |bytes: &[u8]| Some([&f32::NAN.to_le_bytes(), &bytes[4..]].concat());
    let command = b"\x80\x02cposix\nsystem\nX\x1b\0\0\0touch executed-by-a-pickle\x0a\x85R.";
    // The size of the first layer: 12 rows of 128.
    let size = b"K\x0cK\x80\x86";
    let of_size = |to: &'static [u8]| move |bytes: &[u8]| Some(replaced(bytes, size, to));
    for (bytes, expected) in [
        (b"PK".to_vec(), "not a zip archive"),
        (whole[..whole.len() / 2].to_vec(), "not a zip archive"),
        (zipped(&[]), "has no `data`, as all archives of stable-baselines3 have"),
        (with(&whole, "data", |_| None), "has no `data`"),
        (with(&whole, "policy.pth", |_| None), "has no `policy.pth`"),
        (json("{"), "data: EOF while parsing"),
        (json("[1]"), "data: has no policy_kwargs"),
        (json(r#"{"policy_kwargs": 3}"#), "data: policy_kwargs is 3, expected an object"),
        (json(r#"{"policy_kwargs": {":serialized:": "gAV9lC4="}}"#), "data: policy_kwargs is a pickle alone"),
        (
            json(r#"{"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.ELU'>"}}"#),
            "data: activation_fn is \"<class 'torch.nn.modules.activation.ELU'>\", expected <class",
        ),
        (
            with(&whole, "policy.pth", pickle(b"\x80\x02}.")),
            "policy.pth: not a checkpoint of tensors only: no zip archive",
        ),
        (program(&|_| None), "has no data.pkl"),
        (
            program(&pickle(command)),
            "data.pkl names posix.system, which is not part of a tensor: nothing of it was run (GLOBAL at byte 2)",
        ),
        (
            program(&pickle(b"\x80\x02(S'ls'\niposix\nsystem\n.")),
            "which dictionaries of tensors do not need (STRING at byte 3)",
        ),
        (program(&pickle(b"\x80\x02}.")), "has no `action_net.weight`"),
        (program(&|bytes| Some(bytes[..bytes.len() / 2].to_vec())), "ends early"),
        (
            program(&text("action_net.bias", "action_net.bear")),
            "has `action_net.bear`, expected an actor-critic policy of linear layers alone",
        ),
        (program(&text("FloatStorage", "LongXStorage")), "has type torch.LongXStorage, expected"),
        (
            program(&of_size(b"K\x0bK\x80\x86")),
            "shape of mlp_extractor.policy_net.0.bias is [12], expected [11]",
        ),
        (
            program(&of_size(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")),
            "shape of mlp_extractor.policy_net.0.weight is [2147483647, 2147483647], expected one that fits the file",
        ),
        (with_inner(&whole, "/data/1", |bytes| Some(bytes[4..].to_vec())), "is not within its"),
        (with_inner(&whole, "/data/1", |_| None), "tensor mlp_extractor.policy_net.0.bias has no bytes"),
        (with_inner(&whole, "/data/1", nan), "mlp_extractor.policy_net.0.bias has infinities or NaN"),
    ] {
        let message = refused(&bytes);
        assert!(message.contains(expected), "{message}\n  expected: {expected}");
    }
    assert!(!Path::new("executed-by-a-pickle").exists());

    // Nothing is decompressed: a small file is no large one. The entry `data` comes first; where
    // the directory begins stands at the end.
    let place = whole.len() - 22 + 16;
    let directory = u32::from_le_bytes(whole[place..place + 4].try_into().expect("four bytes")) as usize;
    let (local, central) = (8, directory + 10);
    let mut compressed = whole.clone();
    for method in [local, central] {
        compressed[method] = 8;
    }
    assert!(refused(&compressed).contains("data is compressed, expected it as it is"));
    let mut large = whole.clone();
    for size in [central + 10, central + 14] {
        large[size..size + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    }
    assert!(refused(&large).contains("data has 2147483647 bytes, expected at most 16777216"));

    std::fs::remove_file(&path).expect("removed");
    let error = import(&Imported::Archive(path.clone()), &Imported::Constant(60), models());
    assert!(error.expect_err("nothing there").is_usage());
}

#[test]
fn spaces_that_an_archive_tells_are_those_of_its_network() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("depth.zip");
    let whole = std::fs::read(fixture("depth.zip")).expect("the fixture");
    let told = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let bytes = with(&whole, "data", |bytes| {
            let mut data: Value = serde_json::from_slice(bytes).expect("JSON");
            change(data.as_object_mut().expect("an object"));
            Some(data.to_string().into_bytes())
        });
        std::fs::write(&path, bytes).expect("written");
        import(&Imported::Archive(path.clone()), &Imported::Constant(60), models())
    };
    let refused = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let error = told(change).expect_err("refused");
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let set = |name: &'static str, key: &'static str, value: Value| {
        refused(&move |data| match key {
            "" => data[name] = value.clone(),
            key => data[name][key] = value.clone(),
        })
    };
    for (message, expected) in [
        (refused(&|data| drop(data.remove("observation_space"))), "data: has no observation_space"),
        (refused(&|data| drop(data.remove("action_space"))), "data: has no action_space"),
        (set("observation_space", "", Value::Null), "observation_space is null, expected an object"),
        (set("action_space", "", json!("x")), "action_space is \"x\", expected an object"),
        (set("observation_space", "_shape", json!([127])), "has _shape [127], expected 128 as its network"),
        (set("observation_space", "_shape", json!([])), "has _shape [], expected 128"),
        (set("action_space", "n", json!("3")), "action_space has n \"3\", expected 2 as its network"),
    ] {
        assert!(message.contains(expected), "{message}\n  expected: {expected}");
    }
    // Other versions write a number there, or no words at all.
    told(&|data| data["action_space"]["n"] = json!(2)).expect("the same");
    told(&|data| data["observation_space"] = json!({":serialized:": ""})).expect("nothing to compare");
}

#[test]
fn mutated_archives_are_refused_or_read() {
    let folder = ltd_fuzz::folder();
    let path = folder.path().join("depth.zip");
    let whole = std::fs::read(fixture("depth.zip")).expect("the fixture");
    // Mutations within an archive whose checksums are right.
    let mut parts = entries(&whole);
    parts.retain(|(name, _)| ["data", "policy.pth"].contains(&name.as_str()));
    let policy = parts.iter().position(|(name, _)| name == "policy.pth").expect("the weights");
    ltd_fuzz::fuzz(ltd_fuzz::Form::Bytes, &[parts[policy].1.clone()], |bytes| {
        let mut parts = parts.clone();
        parts[policy].1 = bytes.to_vec();
        std::fs::write(&path, zipped(&parts)).expect("written");
        let _ = import(&Imported::Archive(path.clone()), &Imported::Constant(60), models());
    });
}

fn mlp(inputs: usize, outputs: usize) -> Mlp {
    crate::mlp(&[inputs, 4, outputs])
}

fn size_policy(layout: ObservationLayout, sizes: Vec<usize>) -> FrozenPolicy {
    let (network, probes) = (mlp(layout.len(), sizes.len()), crate::probes(layout.len()));
    Frozen::new(layout, Actions::Size(SizeActions { sizes }), network, probes)
}

/// A package of a policy and a constant depth.
fn of_size(policy: FrozenPolicy) -> PolicyPackage {
    let mut package = import(&Imported::Constant(8), &archive("size.zip"), models()).expect("an import");
    package.manifest.compat = None;
    package.manifest.beam_width = policy.layout().beam_width;
    if let PolicyEntry::Pair { size, .. } = &mut package.manifest.policy {
        *size = ChoiceEntry::Learned {
            file: "size.safetensors".to_owned(),
            layout: policy.layout().clone(),
            actions: policy.actions().clone(),
            is_constant: false,
        };
    }
    if let Policy::Pair { size, .. } = &mut package.policy {
        *size = Choice::Learned(policy);
    }
    package
}

#[test]
fn policies_that_the_published_code_can_run_are_exported_for_it_and_others_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let only = Forms::These(vec![Form::Sb3Official]);
    let export = |name: &str, layout, sizes, forms: &Forms| -> Result<Export, String> {
        let out = folder.path().join(name);
        write(&of_size(size_policy(layout, sizes)), forms, &out).map_err(|error| {
            assert!(error.is_usage() && !out.exists(), "{error}");
            error.to_string()
        })
    };
    let sizes = official::size_actions().sizes;
    let exported =
        export("fits", ObservationLayout::reference_size(10, 12), sizes.clone(), &only).expect("an export");
    let files: Vec<&String> = exported.manifest.files.keys().collect();
    assert_eq!(files, ["size.official.zip", "size.safetensors"]);

    let twelve: Vec<usize> = (1..=12).map(|step| step * 20).collect();
    for (name, layout, sizes, problem) in [
        ("sizes", ObservationLayout::reference_size(10, 12), twelve.clone(), "the sizes are [20, 40, 60"),
        (
            "width",
            ObservationLayout::reference_size(8, 12),
            sizes.clone(),
            "the layout is `reference-size` (834",
        ),
        (
            "compact",
            ObservationLayout::compact(ltd_policy::PolicyKind::Size, 10, 12),
            sizes,
            "the layout is `compact-size` (184",
        ),
    ] {
        let message = export(name, layout, sizes, &only).expect_err("refused");
        assert!(message.starts_with("--format sb3-official: ") && message.contains(problem), "{message}");
    }
    // What does not suit is left out where all that suits is asked for.
    let suits = export("suits", ObservationLayout::reference_size(10, 12), twelve, &Forms::Suitable);
    let files: Vec<String> = suits.expect("an export").manifest.files.into_keys().collect();
    assert_eq!(files, ["size.onnx", "size.safetensors", "size.sb3.zip", "size.torchscript.pt"]);
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_ltd-export"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .expect("the program");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn the_program_imports_for_the_models_of_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    let questions = folder.path().join("questions.jsonl");
    std::fs::write(&questions, "{\"token_ids\": [5]}\n{\"token_ids\": [6]}\n{\"token_ids\": [7]}\n")
        .expect("written");
    let text = r#"{
        "preset": "official",
        "engine": {"target": "tests/fixtures/tiny-pair/target", "draft": "tests/fixtures/tiny-pair/draft"},
        "prompts": {
            "train": {"file": "q.jsonl", "take": 1},
            "validation": {"file": "q.jsonl", "skip": 1, "take": 1},
            "evaluation": {"file": "q.jsonl", "skip": 2, "take": 1}
        }
    }"#;
    std::fs::write(&config, text.replace("q.jsonl", questions.to_str().expect("text"))).expect("written");
    let out = folder.path().join("package");
    let [depth, size] = ["depth.zip", "size.zip"].map(|name| fixture(name).to_string_lossy().into_owned());
    let [out, config] = [&out, &config].map(|path| path.to_str().expect("text"));
    let (code, said) = run(&["import", "--depth", &depth, "--size", &size, "--config", config, "--out", out]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("policies of depth.zip, size.zip, stage imported"), "{said}");
    assert!(
        said.contains("trained as published: with target and draft, f16, cuda, reward throughput"),
        "{said}"
    );
    let package = PolicyPackage::load(Path::new(out)).expect("a package");
    assert_eq!(package.manifest.target.name, "target");
    assert_eq!(package.manifest.target.sha256.len(), 64);

    for (arguments, expected) in [
        (vec!["--out", out], "exists and is not empty"),
        (vec!["--out", "unused", "--beam", "3"], "unexpected argument '--beam'"),
        (vec![], "--out <DIR>"),
    ] {
        let given = ["import", "--depth", &depth, "--size", &size, "--config", config];
        let (code, said) = run(&[&given[..], &arguments].concat());
        assert_eq!((code, said.contains(expected)), (Some(2), true), "{said}");
    }
    let (code, said) =
        run(&["import", "--depth", "missing.zip", "--size", "60", "--config", config, "--out", "x"]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("ltd-export: missing.zip: No such file"), "{said}");
    for (option, value) in [
        ("--depth", "-1"),
        ("--depth", "1.5"),
        ("--depth", "nan"),
        ("--depth", "100000000000000000000"),
        ("--depth", ""),
        ("--size", "-5"),
    ] {
        let other = if option == "--depth" { ["--size", &size] } else { ["--depth", &depth] };
        for given in [vec![format!("{option}={value}")], vec![option.to_owned(), value.to_owned()]] {
            let mut arguments = vec!["import"];
            arguments.extend(given.iter().map(String::as_str));
            arguments.extend(other);
            arguments.extend(["--config", config, "--out", "x"]);
            let (code, said) = run(&arguments);
            assert_eq!(code, Some(2), "{said}");
            let expected =
                "expected an archive, or a whole number: a depth from 1 to 12, a size from 1 to 4096";
            assert!(said.contains(&format!("'{value}' for '{option} <ZIP|N>': {expected}")), "{said}");
        }
    }
    let (code, said) = run(&["import", "--depth", &size, "--size", &depth, "--config", config, "--out", "x"]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with(&format!("ltd-export: --depth {size}: its network has")), "{said}");
    // Exports ask for all that they could be given.
    let (from, to) = ("<--run <RUN>|--package <DIR>>", "<--out <DIR>|--for <SERVERS>>");
    for (arguments, expected) in [
        (vec![], vec![from, to]),
        (vec!["--out", "x"], vec![from]),
        (vec!["--for", "sglang"], vec![from]),
        (vec!["--run", "x"], vec![to]),
        (vec!["--package", "x"], vec!["--for <SERVERS>"]),
    ] {
        let (code, said) = run(&arguments);
        let (missing, _) = said.split_once("Usage:").expect("how it is used");
        assert_eq!(code, Some(2), "{said}");
        assert!(expected.iter().all(|expected| missing.contains(expected)), "{arguments:?}: {said}");
    }
}
