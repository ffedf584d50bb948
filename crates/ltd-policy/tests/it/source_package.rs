//! Packages that decide what to draft from.

use ltd_policy::{
    CopyRule, Factored, FactoredSource, FactoredSourceEntry, Fallback, FrozenPolicy, Linear, MANIFEST_FILE,
    Manifest, Mlp, ObservationLayout, Outputs, Policy, PolicyEntry, PolicyPackage, SourceChoice, SourceEntry,
    SourceOutcomes, TOKENS_FILE, sha256_hex,
};

use crate::package::{factored_at, manifest, write, write_factored_source};
use crate::synthetic::{
    latency_table, old_source_predictor, size_policy, source_policy, source_predictor, token_record,
};

/// A source with such margins.
fn source(margin: f64, merged_margin: f64) -> FactoredSource {
    let (predictor, tokens) = (source_predictor(), Some(token_record()));
    FactoredSource { predictor, margin, merged_margin, caution: 0.5, tokens }
}

#[test]
fn a_factored_package_keeps_its_source() {
    let folder = tempfile::tempdir().expect("a folder");
    write_factored_source(folder.path());
    let package = PolicyPackage::load(folder.path()).expect("a package");
    let Policy::Factored(factored) = &package.policy else { panic!("a factored policy") };
    assert_eq!(factored.source, Some(source(-0.1, 0.25)));

    // Elsewhere it learned of other tokens, too.
    let mut tokens = (*token_record()).clone();
    tokens.observe(9, 9, true);
    let source = FactoredSource { tokens: Some(tokens.clone().into()), ..source(0.3, -0.2) };
    let elsewhere = Factored { source: Some(source), ..factored_at(latency_table(9.0, 0.01), 20.0) };
    let moved = package.retargeted(elsewhere).expect("a package");
    let Policy::Factored(factored) = &moved.policy else { panic!("a factored policy") };
    factored.latency.write(&folder.path().join("latency.json")).expect("it is written");
    std::fs::write(folder.path().join(TOKENS_FILE), tokens.to_json()).expect("it is written");
    std::fs::write(folder.path().join(MANIFEST_FILE), moved.manifest.to_json()).expect("it is written");
    assert_eq!(PolicyPackage::load(folder.path()).expect("a package"), moved);

    // Its file is one of the package's.
    std::fs::write(folder.path().join("factored-source.safetensors"), b"no").expect("it is written");
    let error = PolicyPackage::load(folder.path()).expect_err("another file").to_string();
    assert!(error.contains("factored-source.safetensors"), "{error}");
}

#[test]
fn a_record_of_tokens_is_there_if_its_policy_sees_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(MANIFEST_FILE);
    let manifest = write_factored_source(folder.path());
    let entry = |manifest: &mut Manifest, change: &dyn Fn(&mut FactoredSourceEntry)| {
        let PolicyEntry::Factored { source: Some(source), .. } = &mut manifest.policy else {
            panic!("a factored policy with a source")
        };
        change(source);
    };
    let error = |manifest: &Manifest| {
        std::fs::write(&path, manifest.to_json()).expect("it is written");
        PolicyPackage::load(folder.path()).expect_err("another record").to_string()
    };
    let mut without = manifest.clone();
    entry(&mut without, &|source| source.tokens = None);
    assert!(error(&without).contains("source.tokens: is missing"), "{}", error(&without));

    // Of version 6, which knew of none, and told a number of each chain.
    let old = old_source_predictor();
    old.save(&folder.path().join("factored-source.safetensors")).expect("it is written");
    let mut of_version_6 = manifest;
    let hash = sha256_hex(&old.to_bytes());
    of_version_6.files.insert("factored-source.safetensors".to_owned(), hash);
    entry(&mut of_version_6, &|source| {
        (source.layout, source.outcomes) = (old.layout().clone(), old.actions().clone());
    });
    assert!(error(&of_version_6).contains("source.tokens: is given"), "{}", error(&of_version_6));
    let mut older: serde_json::Value = serde_json::from_str(&of_version_6.to_json()).expect("JSON");
    older["format_version"] = 6.into();
    let source = &mut older["policy"]["factored"]["source"];
    source.as_object_mut().expect("an object").remove("tokens");
    source["outcomes"].as_object_mut().expect("an object").remove("places");
    std::fs::write(&path, older.to_string()).expect("it is written");
    let package = PolicyPackage::load(folder.path()).expect("a package of version 6");
    let Policy::Factored(factored) = &package.policy else { panic!("a factored policy") };
    let source = factored.source.as_ref().expect("a source");
    assert_eq!((&source.predictor, &source.tokens), (&old, &None));
}

#[test]
fn a_pair_copies_by_a_policy_or_by_a_rule() {
    let load = |source: SourceEntry| {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = source_policy();
        policy.save(&folder.path().join("source.safetensors")).expect("it is written");
        let mut with_source = manifest();
        if let PolicyEntry::Pair { source: entry, .. } = &mut with_source.policy {
            *entry = source;
        }
        let hash = sha256_hex(&policy.to_bytes());
        with_source.files.insert("source.safetensors".to_owned(), hash);
        write(folder.path(), with_source);
        PolicyPackage::load(folder.path()).map_err(|error| error.to_string())
    };
    let found = |source: SourceEntry| match load(source).expect("a package").policy {
        Policy::Pair { source, .. } => source,
        Policy::Factored(_) => panic!("a pair"),
    };
    let rule = CopyRule { match_length: 2, chain: 8 };
    assert_eq!(found(SourceEntry::Trees), SourceChoice::Trees);
    assert_eq!(found(SourceEntry::Rule(rule)), SourceChoice::Rule(rule));
    let learned = |policy: &FrozenPolicy, file: &str| SourceEntry::Learned {
        file: file.to_owned(),
        layout: policy.layout().clone(),
        actions: policy.actions().clone(),
    };
    let policy = source_policy();
    assert_eq!(found(learned(&policy, "source.safetensors")), SourceChoice::Learned(policy));
    let error = load(SourceEntry::Rule(CopyRule { chain: 0, ..rule })).expect_err("no chain");
    assert!(error.contains("source.rule.chain is 0, expected 1..=4096"), "{error}");
    let error = load(learned(&size_policy(), "size.safetensors")).expect_err("another decision");
    assert!(error.contains("kind of the policy is size, expected source"), "{error}");
}

#[test]
fn places_reach_to_the_end_of_the_longest_chain() {
    let outcomes = source_predictor().actions().clone();
    for (places, fits) in [(0, true), (7, false), (8, true), (4096, true), (4097, false)] {
        let problem = SourceOutcomes { places, ..outcomes.clone() }.problem(4);
        assert_eq!(problem.is_none(), fits, "{places}: {problem:?}");
        assert!(problem.is_none_or(|problem| problem.contains("must be 0 or 8..=4096")));
    }
}

#[test]
fn a_pair_that_would_see_a_record_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (layout, actions) =
        (ObservationLayout::sequence_with_tokens(3, 4), source_policy().actions().clone());
    let network = Mlp::new(&[Linear {
        weight: vec![0.0; layout.len() * actions.count()],
        bias: vec![0.0; actions.count()],
        inputs: layout.len(),
    }]);
    let policy = FrozenPolicy::new(layout.clone(), actions.clone(), network, Vec::new());
    policy.save(&folder.path().join("source.safetensors")).expect("it is written");
    let mut with_source = manifest();
    if let PolicyEntry::Pair { source, .. } = &mut with_source.policy {
        *source = SourceEntry::Learned { file: "source.safetensors".to_owned(), layout, actions };
    }
    let hash = sha256_hex(&policy.to_bytes());
    with_source.files.insert("source.safetensors".to_owned(), hash);
    write(folder.path(), with_source);
    let error = PolicyPackage::load(folder.path()).expect_err("trust").to_string();
    assert!(error.contains("layout is sequence-with-tokens, expected one without trust"), "{error}");
}

#[test]
fn a_policy_that_sees_something_else_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.safetensors");
    let trees = size_policy();
    let layout = ObservationLayout::sequence(3, 4);
    let mlp = Mlp::new(&[Linear {
        weight: vec![0.0; layout.len() * trees.actions().count()],
        bias: vec![0.0; trees.actions().count()],
        inputs: layout.len(),
    }]);
    FrozenPolicy::new(layout, trees.actions().clone(), mlp, Vec::new()).save(&path).expect("it is written");
    let error = FrozenPolicy::load(&path).expect_err("a size policy without a tree").to_string();
    assert!(error.contains("layout is `sequence`, expected numbers of the tree"), "{error}");
}

#[test]
fn a_fallback_may_copy_and_version_3_knew_trees_only() {
    let text = |manifest: &Manifest| manifest.to_json();
    let rule = CopyRule { match_length: 2, chain: 8 };
    let fallback = Fallback { depth: 1, size: 4, copies: Some(rule), reason: "slower".to_owned() };
    assert_eq!(fallback.to_string(), "depth 1 and size 4, copying 8 tokens where 2 match");
    let load = |text: String| {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), manifest());
        let path = folder.path().join(MANIFEST_FILE);
        let files = Manifest::load(&path).expect("a manifest").files;
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["files"] = serde_json::to_value(files).expect("plain data");
        std::fs::write(&path, value.to_string()).expect("it is written");
        PolicyPackage::load(folder.path()).map_err(|error| error.to_string())
    };
    let copying = Manifest { fallback: Some(fallback.clone()), ..manifest() };
    assert_eq!(load(text(&copying)).expect("a package").manifest.fallback, Some(fallback.clone()));
    let impossible = Fallback { copies: Some(CopyRule { match_length: 99, ..rule }), ..fallback };
    let error = load(text(&Manifest { fallback: Some(impossible), ..manifest() })).expect_err("99 tokens");
    assert!(error.contains("fallback.copies.match_length"), "{error}");

    let mut older: serde_json::Value = serde_json::from_str(&text(&manifest())).expect("JSON");
    older["format_version"] = 3.into();
    older["policy"]["pair"].as_object_mut().expect("an object").remove("source");
    let package = load(older.to_string()).expect("a package of version 3");
    assert!(matches!(package.policy, Policy::Pair { source: SourceChoice::Trees, .. }));
}
