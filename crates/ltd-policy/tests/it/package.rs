use std::collections::BTreeMap;
use std::path::Path;

use ltd_policy::{
    Choice, FrozenPolicy, MANIFEST_FILE, Manifest, ModelIdentity, PolicyEntry, PolicyPackage, sha256_hex,
};

use crate::synthetic::{depth_policy, size_policy};

fn entry(policy: &FrozenPolicy, file: &str) -> PolicyEntry {
    let (layout, actions) = (policy.layout().clone(), policy.actions().clone());
    PolicyEntry::Learned { file: file.to_owned(), layout, actions, is_constant: false }
}

fn manifest() -> Manifest {
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
        latency_table_sha256: None,
        objective: "throughput".to_owned(),
        expected: None,
        acceptance_per_depth: vec![0.6, 0.3],
        depth: entry(&depth_policy(), "depth.safetensors"),
        size: entry(&size_policy(), "size.safetensors"),
        files: BTreeMap::new(),
    }
}

fn write(folder: &Path, mut manifest: Manifest) {
    for (name, policy) in [("depth.safetensors", depth_policy()), ("size.safetensors", size_policy())] {
        policy.save(&folder.join(name)).expect("it is written");
        manifest.files.insert(name.to_owned(), sha256_hex(&policy.to_bytes()));
    }
    std::fs::write(folder.join(MANIFEST_FILE), manifest.to_json()).expect("it is written");
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
    assert_eq!(package.depth, Choice::Learned(depth_policy()));
    assert_eq!(package.size, Choice::Learned(size_policy()));
    assert_eq!(package.manifest.acceptance_per_depth, [0.6, 0.3]);
}

#[test]
fn a_constant_needs_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), Manifest { depth: PolicyEntry::Constant { value: 4 }, ..manifest() });
    let package = PolicyPackage::load(folder.path()).expect("a package");
    assert_eq!(package.depth, Choice::Constant(4));

    write(folder.path(), Manifest { depth: PolicyEntry::Constant { value: 5 }, ..manifest() });
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
            r#""format_version": 1"#,
            r#""format_version": 2"#,
            "format version 2, this program reads version 1",
        ),
        (r#""compat": null,"#, r#""compat": null, "extra": 1,"#, "unknown field `extra`"),
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
    assert!(missing.expect_err("no manifest").contains("manifest.json: No such file"));
}
