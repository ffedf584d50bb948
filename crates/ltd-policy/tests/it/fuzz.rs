//! Mutated files are refused or read, and what is read can be used.

use std::path::Path;

use ltd_fuzz::{Form, folder, fuzz};
use ltd_policy::{
    CycleSummary, FactoredActions, FactoredPolicy, FactoredRule, Frozen, FrozenPolicy, FrozenPredictor,
    LatencyTable, MANIFEST_FILE, Manifest, Outputs,
};

use crate::package::written;
use crate::synthetic::{compact_pair, depth_policy, latency_table, predictor, size_policy};

#[global_allocator]
static METER: ltd_fuzz::Meter = ltd_fuzz::Meter;

/// Evaluates a network on its own probes.
fn evaluate<O: Outputs>(network: &Frozen<O>) {
    let mut scratch = network.mlp().scratch();
    for observation in &network.probes().observations {
        network.mlp().forward(observation, &mut scratch);
    }
}

#[test]
fn policy_files() {
    let (depth, size) = compact_pair();
    let seeds = [depth_policy(), size_policy(), depth, size].map(|policy| policy.to_bytes());
    fuzz(Form::Safetensors, &[&seeds[..], &[predictor().to_bytes()]].concat(), |bytes| {
        let path = Path::new("policy.safetensors");
        if let Ok(policy) = FrozenPolicy::from_bytes(bytes, path) {
            evaluate(&policy);
        }
        if let Ok(predictor) = Frozen::<FactoredActions>::from_bytes(bytes, path) {
            evaluate(&predictor);
        }
    });
}

#[test]
fn manifests() {
    let folder = folder();
    let seeds = written(folder.path()).map(|manifest| manifest.to_json().into_bytes());
    let path = folder.path().join(MANIFEST_FILE);
    fuzz(Form::Json, &seeds, |bytes| {
        std::fs::write(&path, bytes).expect("written");
        if let Ok(manifest) = Manifest::load(&path) {
            let _ = manifest.load_policy(folder.path()).map(|policy| policy.deepest());
        }
    });
}

#[test]
fn latency_tables() {
    let table = latency_table(2.0, 0.2);
    let older = LatencyTable { version: 1, ..table.clone() };
    let newer = LatencyTable { level_rows: Some(table.level.clone()), ..table.clone() };
    let predictor: FrozenPredictor = predictor();
    let rule = FactoredRule { tokens_per_second: 50.0, margin: 0.05 };
    let scores = [-0.5f32, -1.0, -2.0];
    let summary =
        CycleSummary { scores: &scores, beam_width: 3, frontier: 3, draft_depth: 0, context_length: 60 };
    let seeds = [table, older, newer].map(|table| table.to_json().into_bytes());
    fuzz(Form::Json, &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(table) = LatencyTable::from_json(&text, Path::new("latency.json")) else { return };
        let actions = predictor.actions();
        table.covers(&actions.depth, &actions.size, 60);
        let model = table.model();
        let _ = model.cycle_ms(4, 40, 100, 2) + model.level_ms(3, 2, 1_000_000) + model.verify_ms(7, 0);
        let mut policy = FactoredPolicy::new(&predictor, &table, rule);
        policy.continue_drafting(&summary);
        policy.verification_size(&summary);
    });
}
