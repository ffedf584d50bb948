use std::collections::BTreeMap;
use std::path::Path;

use ltd_policy::{
    Actions, Choice, ChoiceEntry, Compat, Conditions, CopyRule, Expected, Factored, FactoredRule,
    FactoredSourceEntry, Fallback, FrozenPolicy, LatencyIdentity, LatencyTable, MANIFEST_FILE, Manifest,
    ModelIdentity, Models, Policy, PolicyEntry, PolicyKind, PolicyPackage, SamplingParams, SourceChoice,
    SourceEntry, TOKENS_FILE, official, sha256_hex,
};

use crate::synthetic::{
    depth_policy, factored_actions, latency_table, predictor, size_policy, source_policy, source_predictor,
    token_record,
};

fn entry(policy: &FrozenPolicy, file: &str) -> ChoiceEntry {
    let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
    ChoiceEntry::Learned { file: file.to_owned(), layout, actions, is_constant: false }
}

fn pair(depth: ChoiceEntry) -> PolicyEntry {
    PolicyEntry::Pair {
        depth,
        size: entry(&size_policy(), "size.safetensors"),
        source: SourceEntry::default(),
    }
}

pub(crate) fn manifest() -> Manifest {
    let model = |name: &str| ModelIdentity { name: name.to_owned(), sha256: sha256_hex(name.as_bytes()) };
    Manifest {
        format_version: Manifest::VERSION,
        created_by: "test".to_owned(),
        run: "run".to_owned(),
        stage: "01-size".to_owned(),
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
        objective: "throughput".to_owned(),
        expected: None,
        acceptance_per_depth: vec![0.6, 0.3],
        policy: pair(entry(&depth_policy(), "depth.safetensors")),
        fallback: None,
        files: BTreeMap::new(),
    }
}

pub(crate) fn write(folder: &Path, mut manifest: Manifest) {
    for (name, policy) in [("depth.safetensors", depth_policy()), ("size.safetensors", size_policy())] {
        policy.save(&folder.join(name)).expect("it is written");
        manifest.files.insert(name.to_owned(), sha256_hex(&policy.to_bytes()));
    }
    std::fs::write(folder.join(MANIFEST_FILE), manifest.to_json()).expect("it is written");
}

/// Writes packages of all kinds into one folder, and hands out their manifests.
pub(crate) fn written(folder: &Path) -> [Manifest; 4] {
    write(folder, manifest());
    let policy = source_policy();
    policy.save(&folder.join("source.safetensors")).expect("it is written");
    let mut copying = manifest();
    if let PolicyEntry::Pair { source, .. } = &mut copying.policy {
        *source = SourceEntry::Learned {
            file: "source.safetensors".to_owned(),
            layout: policy.layout().clone(),
            actions: policy.actions().clone(),
        };
    }
    let rule = CopyRule { match_length: 2, chain: 8 };
    let mut factored = write_factored(folder, &latency_table(2.0, 0.2));
    factored.fallback = factored.fallback.map(|fallback| Fallback { copies: Some(rule), ..fallback });
    [manifest(), copying, factored, write_factored_source(folder)]
}

fn load_after(change: impl FnOnce(&Path)) -> Result<PolicyPackage, String> {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), manifest());
    change(folder.path());
    PolicyPackage::load(folder.path()).map_err(|error| error.to_string())
}

fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join(MANIFEST_FILE);
    let text = std::fs::read_to_string(&path).expect("the manifest");
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).expect("it is written");
}

#[test]
fn a_package_is_read_back_as_it_was_written() {
    let package = load_after(|_| ()).expect("a package");
    let (depth, size) = (Choice::Learned(depth_policy()), Choice::Learned(size_policy()));
    assert_eq!(package.policy, Policy::Pair { depth, size, source: SourceChoice::Trees });
    assert_eq!(package.manifest.acceptance_per_depth, [0.6, 0.3]);
}

#[test]
fn a_constant_needs_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), Manifest { policy: pair(ChoiceEntry::Constant { value: 4 }), ..manifest() });
    let package = PolicyPackage::load(folder.path()).expect("a package");
    assert!(matches!(package.policy, Policy::Pair { depth: Choice::Constant(4), .. }));

    write(folder.path(), Manifest { policy: pair(ChoiceEntry::Constant { value: 5 }), ..manifest() });
    let error =
        PolicyPackage::load(folder.path()).expect_err("trees that the size policy cannot see").to_string();
    assert!(error.contains("depth cap of the size policy is 4, expected at least 5"), "{error}");
}

#[test]
fn a_changed_file_is_refused() {
    let error = load_after(|folder| {
        let path = folder.join("size.safetensors");
        let mut bytes = std::fs::read(&path).expect("the policy");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).expect("it is written");
    });
    let error = error.expect_err("a changed policy");
    assert!(error.contains("size.safetensors: SHA-256 is"), "{error}");
}

#[test]
fn broken_packages_are_refused_with_what_is_wrong() {
    for (from, to, message) in [
        (
            r#""format_version": 7"#,
            r#""format_version": 8"#,
            "format version 8, this program reads version 1 to 7",
        ),
        (
            r#""fallback": null"#,
            r#""fallback": {"depth": 5, "size": 2, "reason": "none"}"#,
            "fallback.depth is 5, expected at most depth_cap = 4",
        ),
        (r#""compat": null,"#, r#""compat": null, "extra": 1,"#, "unknown field `extra`"),
        (
            r#""compat": null,"#,
            r#""compat": "eagle-official","#,
            "compat is `eagle-official`, expected null or `official`",
        ),
        (r#""compat": null,"#, r#""compat": "","#, "compat is ``, expected null"),
        (
            r#""compat": null,"#,
            r#""compat": "official","#,
            "layout and actions of depth is others (`reference-depth`), expected those of the published code",
        ),
        (r#""beam_width": 3"#, r#""beam_width": 4"#, "beam width of the layout is 3, expected 4"),
        (r#""max_depth": 4"#, r#""max_depth": 3"#, "layout and actions is others"),
        (
            r#""depth.safetensors": ""#,
            r#""other.safetensors": ""#,
            "files is none, expected a hash of depth.safetensors",
        ),
    ] {
        let error = load_after(|folder| edit(folder, from, to)).expect_err(to);
        assert!(error.contains(message), "{error}");
    }
    let missing =
        load_after(|folder| std::fs::remove_file(folder.join("depth.safetensors")).expect("removed"));
    assert!(missing.expect_err("a missing file").contains("depth.safetensors: No such file"));
    let missing = load_after(|folder| std::fs::remove_file(folder.join(MANIFEST_FILE)).expect("removed"));
    let expected = "it is a folder without manifest.json, expected a policy package";
    let error = missing.expect_err("no manifest");
    assert!(error.contains(expected), "{error}");
}

#[test]
fn another_codes_layouts_and_its_name_go_together() {
    let official = |kind| {
        let (layout, actions) = official::of_kind(kind).expect("a published kind");
        ChoiceEntry::Learned { file: format!("{kind}.safetensors"), layout, actions, is_constant: false }
    };
    let [depth, size] = [PolicyKind::Depth, PolicyKind::Size].map(official);
    let problem = |compat, depth: &ChoiceEntry, size: &ChoiceEntry, source| {
        let policy = PolicyEntry::Pair { depth: depth.clone(), size: size.clone(), source };
        let manifest = Manifest { compat, policy, beam_width: 10, ..manifest() };
        manifest.load_policy(Path::new("nowhere")).expect_err("no files are there").to_string()
    };
    let named = Some(Compat::Official);
    let own = "others than the published code's (compat is null)";
    let published = "those of the published code (compat is `official`)";
    let rule = SourceEntry::Rule(CopyRule { match_length: 2, chain: 8 });
    let constant = ChoiceEntry::Constant { value: 8 };
    let mut other_table = depth.clone();
    if let ChoiceEntry::Learned { actions: Actions::Depth(actions), .. } = &mut other_table {
        actions.decide_every = 1;
    }
    for (found, expected) in [
        (
            problem(None, &depth, &constant, SourceEntry::Trees),
            format!("of depth is `official-depth`, expected {own}"),
        ),
        (
            problem(None, &constant, &size, SourceEntry::Trees),
            format!("of size is `official-size`, expected {own}"),
        ),
        (
            problem(named, &depth, &entry(&size_policy(), "size.safetensors"), SourceEntry::Trees),
            format!("of size is others (`reference-size`), expected {published}"),
        ),
        (
            problem(named, &other_table, &size, SourceEntry::Trees),
            format!("of depth is others (`official-depth`), expected {published}"),
        ),
        (problem(named, &depth, &size, rule), "source is another, expected `trees`".to_owned()),
        // What fits is looked for.
        (
            problem(named, &depth, &size, SourceEntry::Trees),
            "nowhere/depth.safetensors: No such file".to_owned(),
        ),
    ] {
        assert!(found.contains(&expected), "{found}\n  expected: {expected}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let factored = write_factored(folder.path(), &latency_table(2.0, 0.2));
    let error = Manifest { compat: named, ..factored }.load_policy(folder.path()).expect_err("refused");
    assert!(error.to_string().contains("layout and actions of factored is others"), "{error}");
}

#[test]
fn a_package_steers_its_own_models_only_unless_any_may_be_steered() {
    let package = load_after(|_| ()).expect("a package");
    let folder = Path::new("policies");
    let own = package.manifest.models();
    let check = |models: Option<&Models>, width, depth| {
        package.check_steers(folder, "this command", models, width, depth).map_err(|error| error.to_string())
    };
    check(Some(&own), 3, 4).expect("its own models");
    // A folder may be called as one likes.
    let renamed = ModelIdentity { name: "renamed".to_owned(), ..own.target.clone() };
    check(Some(&Models { target: renamed, ..own.clone() }), 3, 4).expect("its own models");

    let other = |name: &str| ModelIdentity { name: name.to_owned(), sha256: sha256_hex(b"other") };
    let others = Models { target: other("big"), draft: other("head"), beam_width: 3 };
    assert_eq!(
        check(Some(&others), 3, 4).expect_err("other models"),
        "policies: its target is target (34a04005bcaf), that of this command is big (d9298a10d1b0); \
         its draft is draft (7743ce348d92), that of this command is head (d9298a10d1b0)"
    );
    check(None, 3, 4).expect("any models");
    for models in [None, Some(&Models { beam_width: 4, ..own.clone() })] {
        let error = check(models, 4, 4).expect_err("other trees");
        assert_eq!(error, "policies: its beam width is 3, that of this command is 4");
        let error = check(models.and(Some(&own)), 3, 2).expect_err("shallow trees");
        assert!(error.contains("deepest draft of its policies is 4, expected at most 2"), "{error}");
    }
}

#[test]
fn packages_of_version_1_are_still_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = r#"{
        "format_version": 1, "created_by": "ltd 0.1.0", "run": "r", "stage": "s", "seed": 7, "compat": null,
        "beam_width": 10, "depth_cap": 12, "target": {"name": "t", "sha256": "0"},
        "draft": {"name": "d", "sha256": "1"}, "dtype": "bf16", "device": "cpu", "latency_table_sha256": null,
        "objective": "gain", "expected": null, "acceptance_per_depth": [],
        "depth": {"constant": {"value": 3}}, "size": {"constant": {"value": 20}}, "files": {}
    }"#;
    let path = folder.path().join(MANIFEST_FILE);
    std::fs::write(&path, text).expect("it is written");
    let package = PolicyPackage::load(folder.path()).expect("a package");
    let (depth, size) = (Choice::Constant(3), Choice::Constant(20));
    assert_eq!(package.policy, Policy::Pair { depth, size, source: SourceChoice::Trees });
    assert_eq!((package.manifest.format_version, package.manifest.fallback), (Manifest::VERSION, None));

    for (from, to, message) in [
        (r#""size": {"constant""#, r#""sise": {"constant""#, "unknown field `sise`"),
        (r#", "size": {"constant": {"value": 20}}"#, "", "missing field `size`"),
        (r#""format_version": 1,"#, "", "manifest is not of the expected form"),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).expect("it is written");
        let error = PolicyPackage::load(folder.path()).expect_err(to).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn packages_of_version_2_are_still_read_and_do_not_know_their_sampling() {
    let package = load_after(|folder| {
        let path = folder.join(MANIFEST_FILE);
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("the manifest")).expect("JSON");
        let object = manifest.as_object_mut().expect("an object");
        object.insert("format_version".to_owned(), 2.into());
        assert!(object.remove("sampling").is_some() && object.remove("threads").is_some());
        std::fs::write(path, manifest.to_string()).expect("it is written");
    });
    let package = package.expect("a package");
    assert_eq!(
        package.manifest,
        Manifest { sampling: None, threads: None, files: package.manifest.files.clone(), ..manifest() }
    );
    // What was not recorded is no reason for a warning; what was, is.
    assert_eq!(
        package.warning(&other_conditions()).expect("a warning"),
        "the policy was made for dtype f32 (here: bf16): a constant may be better here"
    );
}

/// Other sampling, dtype and threads than those of [`manifest`].
fn other_conditions() -> Conditions {
    Conditions {
        sampling: Some(SamplingParams { temperature: 1.0, ..SamplingParams::default() }),
        device: Some("cpu".to_owned()),
        dtype: Some("bf16".to_owned()),
        threads: Some(3),
    }
}

#[test]
fn a_package_warns_of_other_conditions_than_it_was_made_for() {
    let package = load_after(|_| ()).expect("a package");
    assert_eq!(package.warning(&package.conditions()), None);
    assert_eq!(
        package.warning(&other_conditions()).expect("a warning"),
        "the policy was made for sampling greedy (here: temperature 1), dtype f32 (here: bf16), threads 2 (here: 3): \
         a constant may be better here"
    );

    // A factored policy is of the machine that its table was measured on.
    let folder = tempfile::tempdir().expect("a folder");
    let identity = LatencyIdentity {
        device: "cuda:1".to_owned(),
        dtype: "f16".to_owned(),
        threads: 8,
        machine: "a card".to_owned(),
        ..latency_table(2.0, 0.2).identity
    };
    let elsewhere = LatencyTable { identity, ..latency_table(2.0, 0.2) };
    write_factored(folder.path(), &elsewhere);
    let package = PolicyPackage::load(folder.path()).expect("a package");
    let expected = Conditions {
        sampling: Some(SamplingParams::default()),
        device: Some("cuda:1".to_owned()),
        dtype: Some("f16".to_owned()),
        threads: Some(8),
    };
    assert_eq!(package.conditions(), expected);
    let moved = package.retargeted(factored_at(elsewhere, 20.0)).expect("a package").manifest;
    assert_eq!(
        (moved.device.as_str(), moved.dtype.as_str(), moved.threads),
        ("cuda:1 (a card)", "f16", Some(8))
    );
}

fn write_factored(folder: &Path, table: &LatencyTable) -> Manifest {
    predictor().save(&folder.join("factored.safetensors")).expect("it is written");
    table.write(&folder.join("latency.json")).expect("it is written");
    let sha256 = sha256_hex(table.to_json().as_bytes());
    let policy = PolicyEntry::Factored {
        file: "factored.safetensors".to_owned(),
        layout: predictor().layout().clone(),
        actions: factored_actions(),
        latency_table: "latency.json".to_owned(),
        tokens_per_second: 50.0,
        margin: 0.05,
        source: None,
    };
    let fallback = Fallback { depth: 1, size: 2, copies: None, reason: "predicted gain -0.4 %".to_owned() };
    let manifest = Manifest {
        policy,
        fallback: Some(fallback),
        expected: Some(Expected { tokens_per_second: 50.0, low: 49.0, high: 51.0, prompts: 3 }),
        latency_table_sha256: Some(sha256.clone()),
        files: BTreeMap::from([
            ("factored.safetensors".to_owned(), sha256_hex(&predictor().to_bytes())),
            ("latency.json".to_owned(), sha256),
        ]),
        ..manifest()
    };
    std::fs::write(folder.join(MANIFEST_FILE), manifest.to_json()).expect("it is written");
    manifest
}

fn rule(tokens_per_second: f64) -> FactoredRule {
    FactoredRule { tokens_per_second, margin: 0.05 }
}

pub(crate) fn factored_at(latency: LatencyTable, tokens_per_second: f64) -> Factored {
    Factored { predictor: predictor(), latency, rule: rule(tokens_per_second), source: None }
}

#[test]
fn a_factored_package_is_read_back_and_retargeted() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = write_factored(folder.path(), &latency_table(2.0, 0.2));
    let package = PolicyPackage::load(folder.path()).expect("a package");
    assert_eq!(package.manifest, manifest);
    let Policy::Factored(factored) = &package.policy else { panic!("a factored policy") };
    assert_eq!((&factored.predictor, factored.rule), (&predictor(), rule(50.0)));

    let moved = package.retargeted(factored_at(latency_table(9.0, 0.01), 20.0)).expect("a package");
    let Policy::Factored(factored) = &moved.policy else { panic!("a factored policy") };
    assert_eq!((&factored.predictor, factored.rule), (&predictor(), rule(20.0)));
    assert_eq!((moved.manifest.expected, moved.manifest.fallback.clone()), (None, None));
    // It is a package again.
    factored.latency.write(&folder.path().join("latency.json")).expect("it is written");
    std::fs::write(folder.path().join(MANIFEST_FILE), moved.manifest.to_json()).expect("it is written");
    assert_eq!(PolicyPackage::load(folder.path()).expect("a package"), moved);
}

#[test]
fn a_table_of_something_else_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_factored(folder.path(), &latency_table(2.0, 0.2));
    let package = PolicyPackage::load(folder.path()).expect("a package");
    let refused = |change: &dyn Fn(&mut LatencyTable), lambda: f64| {
        let mut table = latency_table(2.0, 0.2);
        change(&mut table);
        let in_place =
            package.retargeted(factored_at(table.clone(), lambda)).expect_err("another table").to_string();
        assert!(in_place.starts_with("the package cannot be retargeted: "), "{in_place}");
        if lambda > 0.0 && table.problems().is_empty() {
            write_factored(folder.path(), &table);
            let error = PolicyPackage::load(folder.path()).expect_err("another table").to_string();
            assert!(error.contains("latency.json: latency table: "), "{error}");
        }
        in_place
    };
    let error = refused(&|table| table.identity.target = "other".to_owned(), 50.0);
    assert!(error.contains("identity.target: is other, but the package is for"), "{error}");
    let error = refused(&|table| table.identity.beam_width = 4, 50.0);
    assert!(error.contains("identity.beam_width: is 4, but the package is for 3"), "{error}");
    let error = refused(&|table| table.level.points.retain(|point| point.count == 1), 50.0);
    assert!(error.contains("level: depths 1 to 4 are needed, 1 to 1 measured"), "{error}");
    let error = refused(&|table| table.verify.points.clear(), 50.0);
    assert!(error.contains("verify: has no points"), "{error}");
    let error = refused(&|_| (), 0.0);
    assert!(error.contains("tokens_per_second: is 0, must be positive"), "{error}");

    write(folder.path(), self::manifest());
    let pair = PolicyPackage::load(folder.path()).expect("a package");
    let error = pair.retargeted(factored_at(latency_table(2.0, 0.2), 50.0)).expect_err("a pair").to_string();
    assert!(error.contains("it holds a pair"), "{error}");
}

#[test]
fn a_changed_table_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_factored(folder.path(), &latency_table(2.0, 0.2));
    latency_table(3.0, 0.2).write(&folder.path().join("latency.json")).expect("it is written");
    let error = PolicyPackage::load(folder.path()).expect_err("another table").to_string();
    assert!(error.contains("latency.json: SHA-256 is"), "{error}");
}

/// A factored package that decides what to draft from, too.
pub(crate) fn write_factored_source(folder: &Path) -> Manifest {
    let mut manifest = write_factored(folder, &latency_table(2.0, 0.2));
    let source = source_predictor();
    source.save(&folder.join("factored-source.safetensors")).expect("it is written");
    if let PolicyEntry::Factored { source: entry, .. } = &mut manifest.policy {
        *entry = Some(FactoredSourceEntry {
            file: "factored-source.safetensors".to_owned(),
            layout: source.layout().clone(),
            outcomes: source.actions().clone(),
            margin: -0.1,
            merged_margin: 0.25,
            caution: 0.5,
            tokens: Some(TOKENS_FILE.to_owned()),
        });
    }
    let hash = sha256_hex(&source.to_bytes());
    manifest.files.insert("factored-source.safetensors".to_owned(), hash);
    let tokens = token_record().to_json();
    std::fs::write(folder.join(TOKENS_FILE), &tokens).expect("it is written");
    manifest.files.insert(TOKENS_FILE.to_owned(), sha256_hex(tokens.as_bytes()));
    std::fs::write(folder.join(MANIFEST_FILE), manifest.to_json()).expect("it is written");
    manifest
}
