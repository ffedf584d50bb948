//! `ltd-decode` on both pairs.

use ltd::env::trace::Trace;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::command::{TINY, config, questions, refusal, stdout, text, workspace};

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn tiny(arguments: &[&str]) -> String {
    stdout("ltd-decode", &[&TINY[..], arguments].concat())
}

struct Golden(Vec<u8>);

impl Golden {
    fn read(name: &str) -> Self {
        let path = workspace().join("tests/fixtures/golden").join(name);
        Self(std::fs::read(path).expect("the fixture"))
    }

    fn ints(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).expect("a file");
        let words = file.tensor(name).expect("a tensor").data().to_vec();
        words.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
    }

    fn prompt(&self) -> String {
        self.ints("prompt_ids").iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn cycles_and_output_are_the_references() {
    let golden = Golden::read("tiny-default-1.safetensors");
    let (prompt, expected) = (golden.prompt(), golden.ints("ids"));
    let prompt_len = golden.ints("prompt_ids").len();
    let count = (expected.len() - prompt_len).to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let dump = folder.path().join("trees.safetensors");
    let output = tiny(&[
        "--mode",
        "static",
        "--depth",
        "7",
        "--size",
        "59",
        "--whole-beam",
        "--max-new-tokens",
        &count,
        "--token-ids",
        &prompt,
        "--json",
        "--dump-trees",
        text(&dump),
    ]);
    let lines = lines(&output);
    let (total, cycles) = lines.split_last().expect("lines");
    assert_eq!(ids(&total["output_ids"]), expected[prompt_len..]);
    let emitted: Vec<u32> = cycles.iter().flat_map(|cycle| ids(&cycle["accepted_ids"])).collect();
    assert_eq!(emitted, expected[prompt_len..]);
    for (index, cycle) in cycles.iter().enumerate() {
        let accepted = ids(&cycle["accepted_ids"]);
        assert_eq!(cycle["root"], accepted[0]);
        assert_eq!(cycle["tau"], accepted.len());
        assert_eq!((&cycle["draft_depth"], &cycle["verification_size"]), (&Value::from(7), &Value::from(59)));
        assert_eq!(accepted.len(), golden.ints(&format!("cycle.{index}.accepted")).len());
        assert!(["draft_ms", "verify_ms", "policy_ms"].iter().all(|key| cycle[key].as_f64() >= Some(0.0)));
    }
    // The dump has the layout of the golden file.
    let dumped = Golden(std::fs::read(&dump).expect("the dump"));
    let names = |golden: &Golden| {
        let file = SafeTensors::deserialize(&golden.0).expect("a file");
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    let expected_names: Vec<String> = names(&golden).into_iter().filter(|name| name != "ar_ids").collect();
    assert_eq!(names(&dumped), expected_names);
    for name in
        ["ids", "cycle.0.parents", "cycle.3.selected", "cycle.3.parent_rows", "cycle.5.tree_positions"]
    {
        assert_eq!(dumped.ints(name), golden.ints(name), "{name}");
    }
}

#[test]
fn plain_decoding_is_the_references() {
    let golden = Golden::read("tiny-default-0.safetensors");
    let expected = golden.ints("ar_ids")[golden.ints("prompt_ids").len()..].to_vec();
    let count = expected.len().to_string();
    let output =
        tiny(&["--mode", "ar", "--max-new-tokens", &count, "--token-ids", &golden.prompt(), "--json"]);
    assert_eq!(ids(&lines(&output).pop().expect("lines")["output_ids"]), expected);
}

#[test]
fn question_files_are_answered_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = questions(folder.path());
    let arguments = ["--questions", text(&file), "--limit", "3", "--max-new-tokens", "20", "--json"];
    let plain = lines(&tiny(&[&["--mode", "ar"], &arguments[..]].concat()));
    let trees =
        lines(&tiny(&[&["--mode", "static", "--depth", "3", "--size", "12"], &arguments[..]].concat()));
    let answers = |lines: &[Value]| -> Vec<Vec<u32>> {
        lines.iter().filter_map(|line| line.get("output_ids")).map(ids).collect()
    };
    assert_eq!(answers(&plain), answers(&trees));
    assert_eq!(answers(&plain).len(), 4, "three answers and the total");
}

#[test]
fn sampled_answers_depend_on_the_seed_and_not_on_the_trees() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = questions(folder.path());
    let answers = |mode: &[&str], sampling: &[&str]| -> Vec<Value> {
        let rest = ["--questions", text(&file), "--limit", "3", "--max-new-tokens", "20", "--json"];
        let mut lines = lines(&tiny(&[mode, sampling, &rest[..]].concat()));
        lines.retain(|line| line.get("output_ids").is_some());
        lines
    };
    let outputs =
        |lines: &[Value]| -> Vec<Vec<u32>> { lines.iter().map(|line| ids(&line["output_ids"])).collect() };
    let (plain, trees) = (["--mode", "ar"], ["--mode", "static", "--depth", "3", "--size", "12"]);
    let warm = ["--temperature", "0.9", "--top-p", "0.95", "--top-k", "40", "--seed", "5"];
    let expected = answers(&plain, &warm);
    assert_eq!(outputs(&answers(&trees, &warm)), outputs(&expected));
    let total = expected.last().expect("the total");
    assert_eq!(total["sampling"].to_string(), r#"{"temperature":0.9,"top_p":0.95,"top_k":40}"#);
    assert_eq!((total["seed"].as_u64(), total["acceptance_length"].as_f64()), (Some(5), Some(1.0)));
    let other_seed = outputs(&answers(&trees, &[&warm[..7], &["6"]].concat()));
    assert_ne!(other_seed, outputs(&expected));
    let greedy = outputs(&answers(&trees, &[]));
    assert_ne!(greedy, outputs(&expected));
    assert_eq!(outputs(&answers(&trees, &["--temperature", "0", "--top-k", "3", "--seed", "9"])), greedy);
    // A recording has the same texts.
    let config = config(folder.path(), |config| config["max_new_tokens"] = json!(20));
    let trace = folder.path().join("trace");
    let recorded = ["record", "--config", text(&config), "--questions", text(&file), "--limit", "3"];
    stdout("ltd-trace", &[&recorded[..], &warm, &["--out", text(&trace)]].concat());
    let trace = Trace::read(&trace).expect("a trace");
    for (sequence, answer) in trace.outlines().zip(&outputs(&expected)) {
        assert_eq!(sequence.seed, 5);
        assert!(sequence.tokens[sequence.prompt_len..].starts_with(answer), "prompt {}", sequence.prompt);
    }
    // A prompt's numbers do not depend on how many others there are; two equal prompts have
    // different ones.
    let first = &outputs(&expected)[0];
    let alone = ["--token-ids", "88 108 105 36 103 101 120", "--max-new-tokens", "20", "--json"];
    let alone = lines(&tiny(&[&trees[..], &warm, &alone].concat()));
    assert_eq!(&ids(&alone.last().expect("the total")["output_ids"]), first);
}

#[test]
fn the_default_pair_answers_in_words_and_both_ways_alike() {
    let say = |mode: &[&str]| {
        let pair = ["--target", "models/smollm2-135m-instruct", "--draft", "assets/eagle3-smollm2-135m"];
        let rest = ["--dtype", "f32", "--max-new-tokens", "24", "What is the capital of France?"];
        stdout("ltd-decode", &[&pair[..], mode, &rest[..]].concat())
    };
    let plain = say(&["--mode", "ar"]);
    assert!(plain.contains("Paris"), "{plain}");
    assert_eq!(say(&["--mode", "static", "--depth", "5", "--size", "30"]), plain);
}

#[test]
fn copies_write_what_the_target_writes_and_say_where_it_comes_from() {
    let prompt = "104 105 106 36 103 101 120 36 104 105 106 36 103";
    let rest = ["--max-new-tokens", "120", "--token-ids", prompt, "--json"];
    let warm = ["--temperature", "0.8", "--seed", "3"];
    let cycles = |mode: &[&str], sampling: &[&str]| lines(&tiny(&[mode, sampling, &rest[..]].concat()));
    let sources = |lines: &[Value]| -> std::collections::BTreeSet<String> {
        let sources = lines.iter().filter_map(|line| line["source"].as_str());
        sources.map(str::to_owned).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    for sampling in [&[][..], &warm[..]] {
        let plain = cycles(&["--mode", "ar"], sampling);
        let expected = ids(&plain.last().expect("the total")["output_ids"]);
        assert_eq!(sources(&plain), set(&["plain"]));
        let rule =
            ["--mode", "static", "--source", "rule", "--depth", "2", "--size", "6", "--copy-match", "2"];
        let copy = ["--mode", "static", "--source", "copy", "--copy-length", "5"];
        let eagle = ["--mode", "static", "--source", "eagle", "--depth", "2", "--size", "6"];
        let merged = ["--mode", "static", "--source", "merged", "--depth", "2", "--size", "9"];
        for (mode, names) in [
            (&rule[..], &["copy", "eagle"][..]),
            (&copy, &["copy", "plain"]),
            (&eagle, &["eagle"]),
            (&merged, &["eagle", "merged"]),
        ] {
            let lines = cycles(mode, sampling);
            let (total, lines) = lines.split_last().expect("the total");
            assert_eq!(ids(&total["output_ids"]), expected, "{mode:?} {sampling:?}");
            assert_eq!(sources(lines), set(names), "{mode:?} {sampling:?}");
            let count =
                |key: &str| lines.iter().map(|line| line[key].as_u64().expect("a number")).sum::<u64>();
            assert_eq!(total["copied_tokens"].as_u64(), Some(count("copied")));
            for line in lines {
                let (tau, copied) =
                    (line["tau"].as_u64().expect("tokens"), line["copied"].as_u64().expect("tokens"));
                let copies = line["source"] == "copy";
                let drafted = line["drafted"].as_u64().expect("tokens");
                let most = match line["source"].as_str() {
                    Some("merged") => (tau - 1, tau - 1),
                    Some("copy") => (0, tau - 1),
                    _ => (tau - 1, 0),
                };
                assert!(drafted <= most.0 && copied <= most.1, "{line}");
                assert_eq!(drafted.max(copied), tau - 1, "{line}");
                assert!(!copies || line["match_length"].as_u64() >= Some(1), "{line}");
                assert!(!copies || line["draft_depth"] == 0, "{line}");
            }
        }
    }
}

#[test]
fn options_of_copies_are_for_copies() {
    let fails = |arguments: &[&str]| {
        refusal("ltd-decode", &[&TINY[..], arguments, &["--token-ids", "5 6 7"]].concat())
    };
    for (arguments, expected) in [
        (&["--mode", "ar", "--source", "copy"][..], "--source: only for constant decoding (--mode static)"),
        (
            &["--mode", "static", "--depth", "1", "--size", "4", "--copy-match", "3"],
            "--copy-match: only where text",
        ),
        (&["--mode", "static", "--source", "copy", "--depth", "1"], "--depth: only for trees"),
        (&["--mode", "static", "--source", "rule", "--depth", "1"], "--size: must be given for trees"),
        (&["--mode", "static", "--source", "copy", "--copy-match", "17"], "17 is not in 1..=16"),
        (&["--mode", "static", "--source", "copy", "--copy-length", "0"], "0 is not in 1..=4096"),
        (
            &["--mode", "static", "--source", "copy", "--dump-trees", "x.safetensors"],
            "--dump-trees: copies have no trees",
        ),
    ] {
        let found = fails(arguments);
        assert!(found.contains(expected), "{arguments:?}: {found}");
    }
}
