//! `ltd-train compare` with published rules.

use serde_json::Value;

use crate::command::{config, program, refusal_of, run, text};
use crate::machine::machine;

#[test]
fn all_published_rules_decode_the_text_of_the_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [table, measured] = ["latency.json", "compared.json"].map(|name| folder.path().join(name));
    machine(1.0).write(&table).expect("written");
    let questions = folder.path().join("questions.jsonl");
    let compare = ["compare", "--config", text(&config), "--constant", "1,4"];
    let few = ["--questions", text(&questions), "--limit", "2"];
    let rules = ["--contenders", "all", "--latency", text(&table), "--json", text(&measured)];
    let output = run("ltd-train", &[&compare[..], &few, &rules].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("warning: --latency was measured with device the other"), "{errors}");
    let measured = std::fs::read_to_string(&measured).expect("it is written");
    let measured: Value = serde_json::from_str(&measured).expect("JSON");
    let contenders = measured["contenders"].as_array().expect("rows");
    // Plain decoding, the constant, EAGLE's own choice and the rules.
    assert_eq!(contenders.len(), 2 + 1 + ltd::contenders::ALL.len());
    let eagle = contenders[2]["name"].as_str().expect("a name");
    let sizes = ["39", "47", "49", "55", "59"].map(|size| format!("eagle-auto (size {size})"));
    assert!(sizes.iter().any(|name| name == eagle), "{eagle}");
    for contender in contenders {
        assert_eq!(contender["same_output"], measured["prompts"], "{contender}");
    }
    let depth = |name: &str| {
        let row = contenders.iter().find(|row| row["name"] == name).expect("a row");
        row["mean_depth"].as_f64().expect("a depth")
    };
    assert_eq!(depth("eagle-default"), 7.0);
    assert!((1.0..10.0).contains(&depth("gamma-tune")), "{}", depth("gamma-tune"));
}

#[test]
fn names_are_known_once_and_costs_are_there_where_they_are_weighed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let refused = |arguments: &[&str]| {
        let compare = ["compare", "--config", text(&config)];
        refusal_of(&mut program("ltd-train", &[&compare[..], arguments].concat()))
    };
    let message = refused(&["--contenders", "ddd,gama-tune"]);
    assert!(
        message.contains("--contenders: unknown contender `gama-tune`; expected eagle-default"),
        "{message}"
    );
    let message = refused(&["--contenders", "all,ddd"]);
    assert!(message.contains("--contenders: ddd is there twice"), "{message}");
    let message = refused(&["--contenders", "ddd,smart"]);
    assert!(message.contains("--contenders: smart weighs measured costs: --latency names"), "{message}");
    let message = refused(&["--contenders", "smart", "--latency", "missing.json"]);
    assert!(message.contains("missing.json: "), "{message}");
    let table = folder.path().join("latency.json");
    std::fs::write(&table, "{}").expect("written");
    let message = refused(&["--contenders", "smart", "--latency", text(&table)]);
    assert!(message.contains("latency.json"), "{message}");
}
