//! `ltd-train compare` with published rules, and what it keeps.

use std::path::{Path, PathBuf};

use ltd::contenders::{Classifiers, Needs};
use serde_json::{Value, json};

use crate::command::{config, program, refusal_of, run, stdout, text, workspace};
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
    let part = &measured["parts"][0];
    let contenders = part["contenders"].as_array().expect("rows");
    // Plain decoding, the constant, EAGLE's own choice and the rules.
    let alone = ltd::contenders::ALL.iter().filter(|entry| entry.needs() != Needs::Classifiers);
    assert_eq!(contenders.len(), 2 + 1 + alone.count());
    let eagle = contenders[2]["name"].as_str().expect("a name");
    let sizes = ["39", "47", "49", "55", "59"].map(|size| format!("eagle-auto (size {size})"));
    assert!(sizes.iter().any(|name| name == eagle), "{eagle}");
    for contender in contenders {
        assert_eq!(contender["same_output"], part["questions"], "{contender}");
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
    let message = refused(&["--constant", "1,4", "--constant", "1,4"]);
    assert!(message.contains("depth 1, size 4 takes part twice"), "{message}");
    let message = refused(&["--contenders", "smart", "--latency", "missing.json"]);
    assert!(message.contains("missing.json: "), "{message}");
    let table = folder.path().join("latency.json");
    std::fs::write(&table, "{}").expect("written");
    let message = refused(&["--contenders", "smart", "--latency", text(&table)]);
    assert!(message.contains("latency.json"), "{message}");
}

/// A recording of the tiny pair with entropies, or without, and the costs of a machine.
fn recorded(folder: &Path, config: &Path, entropies: bool) -> [PathBuf; 2] {
    let [trace, table] = ["trace", "latency.json"].map(|name| folder.join(name));
    let questions = folder.join("questions.jsonl");
    let record = ["record", "--config", text(config), "--questions", text(&questions), "--out", text(&trace)];
    let more = if entropies { &["--entropies", "--states"][..] } else { &[] };
    run("ltd-trace", &[&record[..], more].concat());
    machine(1.0).write(&table).expect("written");
    [trace, table]
}

#[test]
fn classifiers_are_trained_and_the_text_is_the_targets() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [trace, table] = recorded(folder.path(), &config, true);
    let [file, again, measured] = ["classifiers.safetensors", "again.safetensors", "compared.json"]
        .map(|name| folder.path().join(name));
    let train = |out: &Path| {
        let inputs = ["classify", "--trace", text(&trace), "--latency", text(&table), "--out", text(out)];
        stdout("ltd-train", &[&inputs[..], &["--size", "20", "--epochs", "5"]].concat())
    };
    let told = train(&file);
    assert!(told.contains("learned from 8 prompts, checked on 2 others"), "{told}");
    assert!(
        ["| disco | ", "| c2t | ", "| specdec-pp | ", "| hvd | "].iter().all(|row| told.contains(row)),
        "{told}"
    );
    train(&again);
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert_eq!(bytes(&again), bytes(&file), "a seed says all");
    assert_eq!(Classifiers::read(&file).expect("it is read").origin().size, 20);

    let questions = folder.path().join("questions.jsonl");
    let compare = ["compare", "--config", text(&config), "--constant", "1,4", "--json", text(&measured)];
    let few = ["--questions", text(&questions), "--limit", "3", "--classifiers", text(&file)];
    let rules = ["--contenders", "svip,disco,c2t,specdec-pp,hvd"];
    let results = folder.path().join("results.jsonl");
    stdout("ltd-train", &[&compare[..], &few, &rules, &["--results", text(&results)]].concat());
    let measured: Value = serde_json::from_slice(&bytes(&measured)).expect("JSON");
    let part = &measured["parts"][0];
    let contenders = part["contenders"].as_array().expect("rows");
    let names = ["ar", "depth 1, size 4", "svip", "disco", "c2t", "specdec-pp", "hvd"];
    assert!(contenders.iter().map(|row| row["name"].as_str().expect("a name")).eq(names));
    for contender in contenders {
        assert_eq!(contender["same_output"], part["questions"], "{contender}");
    }
    // What they decide by is told, and no more than the threshold was chosen for is verified.
    let kept = lines(&results);
    let header: Value = serde_json::from_str(&kept[0]).expect("JSON");
    let decides_by = |place: usize| header["compared"]["contenders"][place]["decides_by"].clone();
    let sum = json!(ltd::policy::sha256_hex(&bytes(&file)));
    assert_eq!([2, 3, 4, 5, 6].map(decides_by), [json!(""), sum.clone(), sum.clone(), sum.clone(), sum]);
    let answer: Value = serde_json::from_str(&kept[1]).expect("JSON");
    let cycles = answer["answers"][3]["cycles"].as_array().expect("cycles");
    assert!(cycles.iter().all(|cycle| cycle["asked"] == json!(20)), "{cycles:?}");

    let told = stdout(
        "ltd-train",
        &[&compare[..], &few, &["--contenders", "disco,c2t,specdec-pp,hvd"], &["--contender-trees", "2,8"]]
            .concat(),
    );
    let rows = ["| disco (2, 8)", "| c2t (2, 8)", "| specdec-pp (2, 8)", "| hvd (2, 8)"];
    assert!(rows.iter().all(|row| told.contains(row)), "{told}");
}

#[test]
fn what_nothing_can_be_classified_by_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [trace, table] = recorded(folder.path(), &config, false);
    let file = folder.path().join("classifiers.safetensors");
    let refused = |arguments: &[&str]| refusal_of(&mut program("ltd-train", arguments));
    let classify = |trace: &Path, table: &Path, out: &Path| {
        let inputs = ["--trace", text(trace), "--latency", text(table), "--out", text(out)];
        refused(&[&["classify"], &inputs[..]].concat())
    };
    let message = classify(&trace, &table, &file);
    assert!(message.contains("trace: it has no entropies, which classifiers look at"), "{message}");
    let message = classify(&folder.path().join("missing"), &table, &file);
    assert!(message.contains("missing"), "{message}");
    assert!(classify(&trace, &table, folder.path()).contains("--out: "));
    assert!(!file.exists());

    let compare = ["compare", "--config", text(&config), "--contenders", "ddd,disco"];
    let message = refused(&compare);
    assert!(
        message.contains("--contenders: disco decides by a classifier: --classifiers names"),
        "{message}"
    );
    let with = [&compare[..], &["--classifiers", text(&file)]].concat();
    assert!(refused(&with).contains("classifiers.safetensors: "));
    std::fs::write(&file, "{\"version\": 1}").expect("written");
    let message = refused(&with);
    assert!(message.contains("classifiers.safetensors: not a complete safetensors file"), "{message}");
}

#[test]
fn classifiers_of_other_models_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [trace, table] = recorded(folder.path(), &config, true);
    let file = folder.path().join("classifiers.safetensors");
    let inputs = ["classify", "--trace", text(&trace), "--latency", text(&table), "--out", text(&file)];
    stdout("ltd-train", &[&inputs[..], &["--epochs", "1"]].concat());
    // The same file of another draft.
    let mut bytes = std::fs::read(&file).expect("a file");
    let sum = Classifiers::read(&file).expect("it is read").models().draft.sha256.clone();
    let at = bytes.windows(sum.len()).rposition(|window| window == sum.as_bytes()).expect("it is there");
    bytes[at..at + sum.len()].fill(b'0');
    std::fs::write(&file, bytes).expect("written");
    let questions = folder.path().join("questions.jsonl");
    let compare = ["compare", "--config", text(&config), "--contenders", "c2t", "--classifiers", text(&file)];
    let message = refusal_of(&mut program("ltd-train", &compare));
    assert!(message.contains("classifiers.safetensors: its draft is "), "{message}");
    assert!(message.contains("that of the configuration is draft ("), "{message}");
    // As an experiment.
    let few = ["--any-models", "--questions", text(&questions), "--limit", "1"];
    stdout("ltd-train", &[&compare[..], &few].concat());

    // A table of other models cannot tell what these cost.
    let mut measured = machine(1.0);
    measured.identity.target = "0123456789abcdef".to_owned();
    measured.write(&table).expect("written");
    let message = refusal_of(&mut program("ltd-train", &inputs));
    assert!(message.contains("latency.json: its target is 0123456789ab, that of the trace is"), "{message}");
}

/// A comparison of few contenders that keeps its cycles: its report.
fn kept(config: &Path, results: &Path, more: &[&str]) -> String {
    let folder = config.parent().expect("a folder");
    let questions = folder.join("questions.jsonl");
    let compare =
        ["compare", "--config", text(config), "--constant", "1,4", "--contenders", "gamma-tune,eagle-auto"];
    let results = ["--questions", text(&questions), "--limit", "4", "--results", text(results)];
    stdout("ltd-train", &[&compare[..], &results, more].concat())
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).expect("results").lines().map(str::to_owned).collect()
}

#[test]
fn a_comparison_is_kept_gone_on_with_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    let told = kept(&config, &results, &[]);
    let whole = lines(&results);
    assert_eq!(whole.len(), 1 + 4);
    // The report is made of the file alone.
    assert_eq!(stdout("ltd-train", &["report", text(&results)]), told);
    assert!(told.contains("How long one waits") && told.contains("| gamma-tune"), "{told}");

    // Every cycle is there: tokens of plain decoding are those of others, and times add up.
    let prompt: Value = serde_json::from_str(&whole[1]).expect("JSON");
    let answers = prompt["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 4);
    for answer in answers {
        assert_eq!(answer["output"], answers[0]["output"]);
        let yielded: usize = answer["cycles"]
            .as_array()
            .expect("cycles")
            .iter()
            .map(|cycle| cycle["accepted"].as_array().expect("tokens").len())
            .sum();
        assert!(yielded + 1 >= answer["output"].as_array().expect("tokens").len(), "{yielded}");
    }
    assert!(answers[2]["state"].is_object() || answers[2]["state"].is_array(), "{}", answers[2]["state"]);

    // Ended within a line: two prompts are there, the rest is measured.
    let cut = whole[..3].join("\n") + "\n" + &whole[3][..40];
    std::fs::write(&results, cut).expect("written");
    let part = stdout("ltd-train", &["report", text(&results)]);
    assert!(part.contains("4 questions (2 of them not measured)"), "{part}");
    kept(&config, &results, &[]);
    let again = lines(&results);
    assert_eq!((again.len(), &again[..3]), (5, &whole[..3]));
    // Nothing is left to do.
    let told = kept(&config, &results, &[]);
    assert_eq!(lines(&results), again);
    assert_eq!(stdout("ltd-train", &["report", text(&results)]), told);

    // Another program that goes on is told, then and in every report.
    let mut header: Value = serde_json::from_str(&again[0]).expect("JSON");
    assert_eq!(header["binary"].as_str().map(str::len), Some(64));
    header["binary"] = json!("0123456789abcdef");
    let other = [&header.to_string(), &again[1], &again[2]].map(|line| line.clone() + "\n").concat();
    let mixed = folder.path().join("mixed.jsonl");
    std::fs::write(&mixed, other).expect("written");
    let note = "From question 3 on, ltd-train ";
    assert!(kept(&config, &mixed, &[]).contains(note));
    assert_eq!(lines(&mixed).len(), 1 + 4 + 1);
    let told = stdout("ltd-train", &["report", text(&mixed)]);
    assert!(told.contains(note) && told.contains("binary 0123456789ab)"), "{told}");
    // The one that went on may do so once more.
    kept(&config, &mixed, &[]);
    assert_eq!(lines(&mixed).len(), 1 + 4 + 1);

    let two = stdout("ltd-train", &["report", text(&results), text(&results)]);
    assert_eq!(two.matches("| gamma-tune").count(), 2 * told.matches("| gamma-tune").count() + 1);
    let (_, beside) = two.split_once("Side by side, 1: ").expect("a table");
    let row = beside.lines().find(|line| line.starts_with("| gamma-tune")).expect("a row");
    assert!(!beside.contains("They differ in"), "{beside}");
    let shorter = folder.path().join("shorter.jsonl");
    kept(&config, &shorter, &["--set", "evaluation.max_new_tokens=7", "--set", "engine.threads=1"]);
    let differing = stdout("ltd-train", &["report", text(&results), text(&shorter)]);
    assert!(differing.contains("They differ in ") && differing.contains("max_new_tokens"), "{differing}");
    // Nothing is faster than itself.
    assert!(row.contains("+0.0 % (+0.0 .. +0.0)"), "{row}");
}

#[test]
fn questions_that_do_not_fit_with_an_answer_are_left_out_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let [questions, results] = ["long.jsonl", "results.jsonl"].map(|name| folder.path().join(name));
    let line = |tokens: usize| json!({ "token_ids": vec![7; tokens] }).to_string() + "\n";
    std::fs::write(&questions, [5, 100_000, 6].map(line).concat()).expect("written");
    let compare = ["compare", "--config", text(&config), "--constant", "1,4", "--results", text(&results)];
    let output = run("ltd-train", &[&compare[..], &["--questions", text(&questions)]].concat());
    let note = "long.jsonl: 1 question of 3 questions do not fit engine.max_length with an answer of";
    assert!(String::from_utf8_lossy(&output.stderr).contains(note));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("2 questions, answers of at most ") && told.contains(note), "{told}");
    let places: Vec<Value> = lines(&results)[1..]
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["question"].clone())
        .collect();
    assert!(places.contains(&json!(0)) && places.contains(&json!(2)), "{places:?}");
    std::fs::write(&questions, line(100_000)).expect("written");
    let refused = ["compare", "--config", text(&config), "--questions", text(&questions)];
    let message = refusal_of(&mut program("ltd-train", &refused));
    assert!(message.contains("long.jsonl: of 1 question all do not fit engine.max_length"), "{message}");
}

#[test]
fn parts_of_a_comparison_are_reported_as_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let questions = folder.path().join("questions.jsonl");
    let [whole, results, json] =
        ["whole.jsonl", "parts.jsonl", "report.json"].map(|name| folder.path().join(name));
    let of = |results: &Path, more: &[&str]| {
        let compare = ["compare", "--config", text(&config), "--constant", "1,4", "--limit", "7"];
        let files = ["--questions", text(&questions), "--results", text(results)];
        let short = ["--set", "evaluation.max_new_tokens=8"];
        [&compare[..], &short, &files, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run_with = |arguments: Vec<String>| {
        run("ltd-train", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    run_with(of(&whole, &[]));
    let cases = |results: &Path| -> Vec<Value> {
        let lines = lines(results);
        let turns = lines[1..].iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        turns.map(|turn| turn["case"].clone()).collect()
    };
    let part = |index: usize| folder.path().join(format!("parts-{index}-of-3.jsonl"));
    for index in 0..3 {
        run_with(of(&results, &["--shard", &format!("{index}/3")]));
    }
    assert_eq!([0, 1, 2].map(|index| cases(&part(index)).len()), [3, 2, 2]);
    // One was ended after its first question.
    let kept = lines(&part(0))[..2].join("\n") + "\n";
    std::fs::write(part(0), kept).expect("written");
    // A launcher says which part it is.
    let arguments = of(&results, &[]);
    let mut again = program("ltd-train", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = again.env("RANK", "0").env("WORLD_SIZE", "3").output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("asks shard 0 of 3 only, as RANK"), "{told}");
    assert_eq!(cases(&part(0)), [json!(0), json!(3), json!(6)]);

    let read = |path: &Path| -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).expect("a report")).expect("JSON")
    };
    let report = |files: &[PathBuf]| {
        let files: Vec<&str> = files.iter().map(|path| text(path)).collect();
        let told = stdout("ltd-train", &[&["report", "--json", text(&json)], &files[..]].concat());
        (told, read(&json))
    };
    let (_, expected) = report(&[whole]);
    // Not in their order.
    let (told, found) = report(&[part(2), part(0), part(1)]);
    assert!(told.contains("3 processes asked a part of the questions each."), "{told}");
    assert_eq!(found["questions"], json!(7));
    let tokens = |report: &Value| {
        report["parts"][0]["rows"].as_array().map(|rows| {
            rows.iter().map(|row| [row["name"].clone(), row["acceptance_length"].clone()]).collect::<Vec<_>>()
        })
    };
    assert_eq!(tokens(&found), tokens(&expected), "greedily, all that is not time is the same");
    let (told, found) = report(&[part(2), part(0)]);
    assert!(told.contains("of them, 1 are not here") && found["questions"] == json!(5), "{told}");
    // One that has not answered anything yet is as good as not here.
    let begun = part(1).with_file_name("begun.jsonl");
    std::fs::write(&begun, lines(&part(1))[0].clone() + "\n").expect("written");
    let (told, _) = report(&[begun.clone(), part(2), part(0)]);
    assert!(told.contains("of them, 1 are not here"), "{told}");
    // More processes than questions.
    for index in [0, 7] {
        run_with(of(&results, &["--shard", &format!("{index}/9")]));
    }
    let of_nine = |index: usize| folder.path().join(format!("parts-{index}-of-9.jsonl"));
    let (told, found) = report(&[of_nine(7), of_nine(0)]);
    assert!(told.contains("of them, 1, 2, 3, 4, 5, 6, 8 are not here"), "{told}");
    assert_eq!(found["questions"], json!(1));
    // Another program measured a part.
    let other = lines(&part(1)).join("\n").replace("\"program\":\"ltd-train ", "\"program\":\"another ");
    std::fs::write(&begun, other + "\n").expect("written");
    let (told, _) = report(&[part(0), begun.clone(), part(2)]);
    assert!(told.contains("Part 1 was measured by another "), "{told}");
    let refused = |arguments: &[&str]| refusal_of(&mut program("ltd-train", arguments));
    let message = refused(&["report", text(&of_nine(7))]);
    assert!(message.contains("nothing is measured yet"), "{message}");
    for (more, expected) in [
        (&["--contenders", "eagle-auto"][..], "eagle-auto cannot take part with --shard"),
        (&["--set", "engine.dtype=auto"], "engine.dtype: is auto, which each part would measure"),
    ] {
        let arguments = of(&results, &[&["--shard", "1/3"], more].concat());
        let message = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(message.contains(expected), "{message}");
    }
    // Processes of one machine would time their cycles on one processor.
    let arguments = of(&results, &["--shard", "auto"]);
    let mut shared = program("ltd-train", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let of_machine = [("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "3")];
    let message = refusal_of(shared.envs(of_machine));
    assert!(message.contains("engine.device: cpu would be shared by several ranks"), "{message}");
    let message = refused(&["report", text(&part(0)), text(&part(0))]);
    assert!(message.contains("holds a part of the comparison that another file holds, too"), "{message}");
    let lonely = ["compare", "--config", text(&config), "--shard", "1/3"];
    assert!(refused(&lonely).contains("--shard: needs --results FILE"));
}

#[test]
fn results_of_another_comparison_and_damaged_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    kept(&config, &results, &[]);
    let whole = lines(&results);
    let refused = |arguments: &[&str]| refusal_of(&mut program("ltd-train", arguments));
    let questions = folder.path().join("questions.jsonl");
    let other = ["compare", "--config", text(&config), "--constant", "1,4", "--questions", text(&questions)];
    let other = [&other[..], &["--limit", "4", "--results", text(&results)]].concat();
    let message = refused(&other);
    let expected = "results.jsonl: it is of another comparison: its contenders have gamma-tune, eagle-auto";
    assert!(message.contains(expected), "{message}");
    let shorter = ["--contenders", "gamma-tune,eagle-auto", "--set", "evaluation.max_new_tokens=7"];
    let message = refused(&[&other[..], &shorter].concat());
    assert!(message.contains("max_new_tokens is "), "{message}");
    assert_eq!(lines(&results), whole, "nothing is lost");

    let damaged = |lines: &[&str], expected: &str| {
        std::fs::write(&results, lines.join("\n") + "\n").expect("written");
        let message = refused(&["report", text(&results)]);
        assert!(message.contains(expected), "{message}");
    };
    damaged(&[&whole[0], &whole[1][..50], &whole[2]], "line 2 is damaged: ");
    damaged(&[&whole[0], &whole[2]], "line 2 is damaged: case 1 turn 0, expected case 0 of 4 turn 0");
    damaged(&[&whole[0]], "nothing is measured yet");
    damaged(&[&whole[0], &whole[1], "", &whole[2]], "line 3 is damaged: it is empty; the lines before it");
    damaged(&[&whole[0], &whole[1], &whole[0]], "line 3 is the beginning of another comparison");
    let of_another = |key: &str, value: u64| {
        let mut line: Value = serde_json::from_str(&whole[2]).expect("JSON");
        line[key] = json!(value);
        line.to_string()
    };
    for key in ["task", "sampling", "repetition"] {
        damaged(&[&whole[0], &whole[1], &of_another(key, 7)], "line 3 is damaged: task ");
    }
    let second: Value = serde_json::from_str(&whole[1]).expect("JSON");
    let same = second["question"].as_u64().expect("a number");
    damaged(&[&whole[0], &whole[1], &of_another("question", same)], "line 3 is damaged: question ");
    damaged(&["{}"], "it holds no results of a comparison");
    damaged(&[r#"{"compared":{"version":2}}"#], "line 1 is damaged: missing field");
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut line: Value = serde_json::from_str(&whole[1]).expect("JSON");
        edit(&mut line["answers"][1]);
        line.to_string()
    };
    let huge = edited(&|answer| answer["cycles"][0]["context"] = json!(u64::MAX));
    damaged(&[&whole[0], &huge], "line 2 is damaged: invalid value");
    let longer = edited(&|answer| answer["cycles"][0]["accepted"] = json!([1, 2, 3, 4]));
    damaged(&[&whole[0], &longer], "line 2 is damaged: an answer is not what its cycles yielded");
    let mut line: Value = serde_json::from_str(&whole[1]).expect("JSON");
    line["answers"][2]["state"] = json!("x");
    std::fs::write(&results, [&whole[0], &line.to_string()].map(|line| line.clone() + "\n").concat())
        .expect("written");
    let message = refused(&[&other[..], &["--contenders", "gamma-tune,eagle-auto"]].concat());
    assert!(message.contains("it is damaged: no state of gamma-tune"), "{message}");
    let mut header: Value = serde_json::from_str(&whole[0]).expect("JSON");
    header["compared"]["contenders"] = json!([]);
    damaged(
        &[&header.to_string(), &whole[1]],
        "expected plain decoding as the first contender, and a constant",
    );
    header["compared"]["version"] = json!(1);
    damaged(&[&header.to_string()], "its form is of version 1, expected 2");
    assert!(refused(&["report", "missing.jsonl"]).contains("missing.jsonl: "));
    let message = refused(&["report", text(&results), "--json", text(&results)]);
    assert!(message.contains("--json: ") && message.contains("would replace a file"), "{message}");
    std::fs::rename(&results, folder.path().join("report.html")).expect("renamed");
    let page = folder.path().join("report.html");
    let message = refused(&["report", text(&page), "--out", text(folder.path())]);
    assert!(message.contains("--out: ") && message.contains("would replace a file"), "{message}");
    std::fs::rename(&page, &results).expect("renamed");

    // A part of a header is no comparison: it begins again. Nobody else may write meanwhile.
    std::fs::write(&results, &whole[0][..60]).expect("written");
    kept(&config, &results, &[]);
    assert_eq!(lines(&results).len(), whole.len());
    let writing = std::fs::File::open(&results).expect("a file");
    writing.lock().expect("locked");
    let message = refused(&[&other[..], &["--contenders", "gamma-tune,eagle-auto"]].concat());
    assert!(message.contains("results.jsonl: another process writes to it"), "{message}");
}

#[test]
fn every_turn_of_every_task_is_decoded_at_every_temperature() {
    let folder = tempfile::tempdir().expect("a folder");
    // The default pair has words: the tiny one has prompts in tokens alone.
    let config = folder.path().join("config.json");
    let default = std::fs::read_to_string(workspace().join("configs/quickstart.json")).expect("it is there");
    let mut default: Value = serde_json::from_str(&default).expect("JSON");
    default.as_object_mut().expect("an object").remove("$schema");
    for key in ["target", "draft"] {
        let place = workspace().join(default["engine"][key].as_str().expect("a folder"));
        default["engine"][key] = json!(place);
    }
    for set in ["train", "validation", "evaluation"] {
        default["prompts"][set]["file"] = json!(workspace().join("data/humaneval.jsonl"));
    }
    default["evaluation"]["max_new_tokens"] = json!(6);
    default["engine"]["max_length"] = json!(160);
    std::fs::write(&config, default.to_string()).expect("written");
    let [chat, code] = ["chat.jsonl", "code.jsonl"].map(|name| folder.path().join(name));
    let long = "And once more, with many more words than before: ".repeat(12);
    let questions = [
        json!({"question_id": 81, "category": "writing", "turns": ["Name a colour.", "Another one."]}),
        json!({"question_id": 82, "category": "maths", "turns": ["What is 2 + 2?", long, "And 3 + 3?"]}),
    ];
    std::fs::write(&chat, questions.map(|question| question.to_string() + "\n").concat()).expect("written");
    std::fs::write(&code, json!({"turns": ["Write a for loop."]}).to_string()).expect("written");

    let [results, json] = ["results.jsonl", "report.json"].map(|name| folder.path().join(name));
    let compare = ["compare", "--config", text(&config), "--constant", "1,4", "--copy-rule", "2,4,1,4"];
    let asked = ["--questions", text(&chat), "--questions", text(&code), "--temperature", "0,1"];
    let kept = ["--repetitions", "2", "--results", text(&results), "--json", text(&json)];
    let told = stdout("ltd-train", &[&compare[..], &asked, &kept].concat());
    let turns: Vec<Value> =
        lines(&results)[1..].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // Three questions, two temperatures, two repetitions; one of them has a second turn that fits.
    assert_eq!(turns.len(), 3 * 2 * 2 + 2 * 2);
    let of = |id: &str, sampling: u64, repetition: u64| -> Vec<&Value> {
        let same = |turn: &&Value| {
            turn["id"] == id && turn["sampling"] == sampling && turn["repetition"] == repetition
        };
        turns.iter().filter(same).collect()
    };
    let said = |turn: &Value| turn["answers"][0]["output"].clone();
    for turn in &turns {
        for answer in turn["answers"].as_array().expect("answers") {
            assert_eq!(answer["output"], said(turn), "{turn}");
        }
        let words: String =
            turn["pieces"].as_array().expect("pieces").iter().filter_map(Value::as_str).collect();
        assert!(!words.is_empty(), "{turn}");
    }
    let (once, again) = (of("81", 0, 0), of("81", 0, 1));
    assert_eq!(
        (once.len(), &once[0]["follows"], &once[1]["follows"]),
        (2, &json!("turn"), &json!("question"))
    );
    assert_eq!([said(once[0]), said(once[1])], [said(again[0]), said(again[1])], "greedily, the same text");
    // The second turn has the first one before it.
    let tokens = |turn: &Value| turn["prompt_tokens"].as_u64().expect("a count");
    assert!(tokens(once[1]) > tokens(once[0]) + 6, "{} {}", tokens(once[0]), tokens(once[1]));
    assert_ne!(said(of("82", 1, 0)[0]), said(of("82", 1, 1)[0]), "drawn with other numbers");
    assert_eq!(of("82", 0, 0)[0]["follows"], "no_room");

    assert!(told.contains("| greedy") && told.contains("| temperature 1"), "{told}");
    assert!(
        told.contains(
            "3 questions, asked 12 times in all, answers of at most 6 tokens, greedy and temperature 1"
        ),
        "{told}"
    );
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("it is written")).expect("JSON");
    let parts = report["parts"].as_array().expect("parts");
    let tasks: Vec<&Value> = parts.iter().map(|part| &part["task"]).collect();
    assert_eq!(tasks, ["chat", "code", "chat", "code"]);
    assert_eq!(
        (&parts[0]["questions"], &parts[0]["answers"], &parts[0]["ended_early"]),
        (&json!(2), &json!(6), &json!(2))
    );
    let categories = parts[0]["categories"].as_array().expect("categories");
    assert_eq!(categories.iter().map(|row| &row["name"]).collect::<Vec<_>>(), ["maths", "writing"]);
    assert!(parts[1]["categories"].as_array().expect("none").is_empty());
    // The mean is over tasks.
    for (mean, parts) in report["means"].as_array().expect("means").iter().zip(parts.chunks(2)) {
        let speedup = |part: &Value| part["contenders"][1]["speedup"].as_f64().expect("a number");
        let mean = mean["contenders"][1]["speedup"]["value"].as_f64().expect("a number");
        assert!((mean - f64::midpoint(speedup(&parts[0]), speedup(&parts[1]))).abs() < 1e-9, "{report}");
    }
    assert_eq!(stdout("ltd-train", &["report", text(&results)]), told);

    let refused =
        |arguments: &[&str]| refusal_of(&mut program("ltd-train", &[&compare[..], arguments].concat()));
    let message = refused(&["--temperature", "0,-1"]);
    assert!(message.contains("--temperature: is -1.0, must be 0 (greedy) or within"), "{message}");
    assert!(refused(&["--temperature", "1,1"]).contains("--temperature: 1 is there twice"));
    let message = refused(&["--questions", text(&chat), "--questions", text(&chat)]);
    assert!(message.contains("have one name, by which tasks are told apart"), "{message}");
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").expect("written");
    let message = refused(&["--questions", text(&chat), "--questions", text(&empty)]);
    assert!(message.contains("empty.jsonl: no questions"), "{message}");
}

#[test]
fn a_report_is_made_of_what_is_left_where_contenders_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    kept(&config, &results, &[]);
    // From the second question on, nobody but plain decoding can.
    let mut edited = lines(&results);
    for line in &mut edited[2..] {
        let mut turn: Value = serde_json::from_str(line).expect("JSON");
        for answer in turn["answers"].as_array_mut().expect("answers").iter_mut().skip(1) {
            *answer = json!({"output": [], "cycles": [], "state": null, "failed": "it broke"});
        }
        *line = turn.to_string();
    }
    let write = |lines: &[String]| {
        std::fs::write(&results, lines.join("\n") + "\n").expect("written");
    };
    write(&edited);
    let out = folder.path().join("report");
    let told = stdout("ltd-train", &["report", text(&results), "--out", text(&out)]);
    assert!(told.contains("Over constant: over ar, the fastest of those measured."), "{told}");
    let at = |place: usize| {
        let turn: Value = serde_json::from_str(&edited[place]).expect("JSON");
        turn["id"].as_str().expect("a name").to_owned()
    };
    let failed =
        format!("depth 1, size 4 failed and is in no table: questions, question {}: it broke", at(2));
    assert!(told.contains(&failed) && !told.contains("| gamma-tune"), "{told}");
    assert_eq!(told.matches("| ar ").count(), 2, "{told}");

    // What no engine makes is damage.
    let damaged = |edit: &dyn Fn(&mut Value), expected: &str| {
        let mut turn: Value = serde_json::from_str(&edited[1]).expect("JSON");
        edit(&mut turn);
        write(&[edited[0].clone(), turn.to_string()]);
        let message = refusal_of(&mut program("ltd-train", &["report", text(&results)]));
        assert!(message.contains(expected), "{message}");
    };
    damaged(&|turn| turn["answers"][1]["cycles"][0]["depth"] = json!(4_000_000_000u32), "a cycle is deeper");
    damaged(&|turn| turn["pieces"] = json!(["a"]), "line 2 is damaged: 1 pieces of text, expected ");
    damaged(
        &|turn| turn["task"] = json!(1),
        "line 2 is damaged: task 1, sampling 0, repetition 0, expected task 0",
    );
    damaged(&|turn| turn["answers"][0]["failed"] = json!("x"), "line 2 is damaged: plain decoding failed");
}

#[test]
fn the_report_is_a_page_that_needs_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let results = folder.path().join("results.jsonl");
    let out = folder.path().join("report");
    let told = kept(&config, &results, &["--out", text(&out)]);
    let [page, words] = ["report.html", "report.md"].map(|file| out.join(file));
    let [html, markdown] = [&page, &words].map(|file| std::fs::read_to_string(file).expect("it is written"));
    let (table, _) = told.split_once("\n\n").expect("a table");
    assert!(markdown.contains(table), "{markdown}");
    assert!(!html.contains("://") && !html.contains("<script"), "nothing from elsewhere");
    // Every picture is one, and says what it shows.
    let mut pictures = 0;
    for part in html.split("<svg ").skip(1) {
        let (svg, _) = part.split_once("</svg>").expect("an end");
        let svg = format!("<svg {svg}</svg>");
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\""), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("#000000"), "{svg}");
        pictures += 1;
    }
    assert!(pictures >= 4, "{pictures} pictures");
    // A cycle of an answer: words of the target, whose tokens are all there.
    let (_, answer) = html.split_once("<div class=\"answer\">").expect("an answer");
    assert!(answer.contains("title=\"cycle 1: a tree of depth 1, "), "{answer}");
    // The page of the results alone is the same.
    std::fs::remove_dir_all(&out).expect("removed");
    stdout("ltd-train", &["report", text(&results), "--out", text(&out)]);
    assert_eq!(std::fs::read_to_string(&page).expect("it is written"), html);

    let refused = |arguments: &[&str]| refusal_of(&mut program("ltd-train", arguments));
    let message = refused(&["report", text(&results), text(&results), "--out", text(&out)]);
    assert!(message.contains("--out takes one file of results"), "{message}");
    let message = refused(&["report", text(&results), "--out", text(&results)]);
    assert!(message.contains("--out: "), "{message}");
    let occupied = folder.path().join("occupied");
    std::fs::create_dir_all(occupied.join("report.html")).expect("a folder");
    let message = refused(&["report", text(&results), "--out", text(&occupied)]);
    assert!(message.contains("report.html: is a folder, expected a file"), "{message}");

    // A browser shows it, where there is one.
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        std::process::Command::new(name).arg("--version").output().is_ok_and(|found| found.status.success())
    }) else {
        return;
    };
    let home = folder.path().join("browser");
    let shown = std::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--dump-dom"])
        .arg(format!("--user-data-dir={}", home.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("it starts");
    let dom = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && dom.contains("<h1>Comparison of 4 contenders</h1>"), "{dom}");
    assert_eq!(dom.matches("<svg ").count(), pictures);
    assert_eq!(dom.matches("<tr").count(), html.matches("<tr").count(), "no table is broken");
}

#[test]
fn what_was_possible_is_told_of_recorded_questions() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let at = |name: &str| folder.path().join(name);
    let [results, table, json, questions] =
        ["results.jsonl", "latency.json", "report.json", "questions.jsonl"].map(at);
    kept(&config, &results, &["--copy-rule", "2,4,1,4", "--temperature", "0,1"]);
    machine(1.0).write(&table).expect("written");
    let record = |out: &Path, more: &[&str]| {
        let record = ["record", "--config", text(&config), "--questions", text(&questions)];
        stdout("ltd-trace", &[&record[..], &["--limit", "3", "--out", text(out)], more].concat());
    };
    let [greedy, drawn, other] = ["greedy", "drawn", "other"].map(at);
    record(&greedy, &[]);
    let seed = std::fs::read_to_string(&config).expect("it is there");
    let seed: Value = serde_json::from_str(&seed).expect("JSON");
    let seed = seed["seed"].as_u64().unwrap_or(1);
    record(&drawn, &["--temperature", "1", "--seed", &seed.to_string()]);
    let traces = ["--trace", text(&greedy), "--trace", text(&drawn), "--latency", text(&table)];
    let told =
        stdout("ltd-train", &[&["report", text(&results), "--json", text(&json)], &traces[..]].concat());
    assert!(told.contains("by replay of 3, 3 recorded answers"), "{told}");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("it is written")).expect("JSON");
    for part in report["parts"].as_array().expect("parts") {
        let possible = part["ceiling"]["over_static"].as_f64().expect("a ratio");
        assert!(possible > 1.0, "nothing is faster than foresight: {part}");
        assert_eq!(part["ceiling"]["answers"], 3);
        for row in part["contenders"].as_array().expect("rows") {
            let gain = row["over_static"]["value"].as_f64().expect("a ratio");
            let [regret, closed] = ["regret", "closed"].map(|key| row[key].as_f64().expect("a share"));
            assert!((regret - (1.0 - gain / possible)).abs() < 1e-9, "{row}");
            assert!((closed - (gain - 1.0) / (possible - 1.0)).abs() < 1e-9, "{row}");
        }
    }

    // Of one temperature nothing that was recorded was reached yet: only the other has a ceiling.
    let text_of = std::fs::read_to_string(&results).expect("it is there");
    let mut lines = text_of.lines();
    let mut unfinished = format!("{}\n", lines.next().expect("a header"));
    let mut reached = [0, 0];
    for line in lines {
        let turn: Value = serde_json::from_str(line).expect("JSON");
        let [sampling, question] = ["sampling", "question"].map(|key| turn[key].as_u64().expect("a number"));
        let recorded = usize::from(question < 3);
        if recorded > 0 && reached[1 - sampling as usize] > 0 {
            break;
        }
        reached[sampling as usize] += recorded;
        unfinished.extend([line, "\n"]);
    }
    let answers = reached[0].max(reached[1]);
    assert!(answers > 0 && unfinished.len() < text_of.len(), "{text_of}");
    let kept_so_far = at("unfinished.jsonl");
    std::fs::write(&kept_so_far, unfinished).expect("written");
    let told = stdout("ltd-train", &[&["report", text(&kept_so_far)], &traces[..]].concat());
    assert!(told.contains(&format!("by replay of {answers} recorded answers")), "{told}");

    // Of other random numbers, or of another file: nothing of it is measured.
    record(&other, &["--temperature", "1", "--seed", &(seed + 1).to_string()]);
    let refused = |traces: &[&Path]| {
        let traces = traces.iter().flat_map(|trace| ["--trace", text(trace)]);
        let report = ["report", text(&results), "--latency", text(&table)].into_iter();
        refusal_of(&mut program("ltd-train", &report.chain(traces).collect::<Vec<_>>()))
    };
    let message = refused(&[&other]);
    assert!(message.contains("has no answer to a question of the comparison"), "{message}");
    // Two of one task would be two ceilings.
    let message = refused(&[&greedy, &greedy]);
    assert!(message.contains("has answers to the same task as") && message.contains("merge"), "{message}");
    let shorter = at("shorter");
    record(&shorter, &["--set", "max_new_tokens=2"]);
    let message = refused(&[&shorter]);
    assert!(message.contains("its max_new_tokens is 2, expected at least "), "{message}");
}
