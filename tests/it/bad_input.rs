//! What users get wrong, as they see it: a line that names the fault, and exit code 2.

use std::path::Path;

use serde_json::json;

use crate::command::{TINY, config, refusal, stdout, text};

fn decode(arguments: &[&str]) -> String {
    refusal("ltd-decode", &[&TINY[..], arguments].concat())
}

fn train(folder: &Path, change: impl FnOnce(&mut serde_json::Value), arguments: &[&str]) -> String {
    let config = config(folder, change);
    let run = folder.join("run");
    refusal("ltd-train", &[&["--config", text(&config), "--run-dir", text(&run)], arguments].concat())
}

#[test]
fn decoding_refuses_what_it_cannot_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, "{\"token_ids\": [5]}\n{\"turns\"\n").expect("written");
    let words = folder.path().join("words.jsonl");
    std::fs::write(&words, "{\"turns\": [\"hello\"]}\n").expect("written");
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "\n").expect("written");
    let prompt = ["--token-ids", "5 6 7"];
    let fixed = ["--mode", "static", "--depth", "2", "--size", "4"];
    for (arguments, message) in [
        (vec!["--mode", "ar", "--token-ids", "5 x"], "--token-ids: expected numbers, found `5 x`"),
        (vec!["--mode", "ar", "--token-ids", ""], "the prompt is empty"),
        (vec!["--mode", "ar", "--token-ids", "5 999"], "prompt token 999 at position 1"),
        (vec!["--mode", "ar", "hello"], "text cannot be read (pass --token-ids instead), as "),
        (
            vec!["--mode", "ar", "--questions", "missing.jsonl"],
            "--questions: file missing.jsonl does not exist",
        ),
        (vec!["--mode", "ar", "--questions", text(&broken)], "broken.jsonl:2: EOF"),
        (vec!["--mode", "ar", "--questions", text(&words)], "words.jsonl: question 1 is text"),
        (vec!["--mode", "ar", "--questions", text(&empty)], "empty.jsonl: no questions"),
        ([&["--mode", "static"], &prompt[..]].concat(), "--depth: must be given for trees"),
        ([&["--mode", "ar", "--whole-beam"], &prompt[..]].concat(), "--whole-beam: only constant trees"),
        (
            [&["--mode", "static", "--depth", "13", "--size", "4"], &prompt[..]].concat(),
            "--depth: is 13, must be at most 12",
        ),
        (
            [&["--mode", "policy", "--policy", "nowhere"], &prompt[..]].concat(),
            "--policy: folder nowhere does not exist",
        ),
        ([&fixed[..], &["--beam-width", "0"], &prompt].concat(), "--beam-width: must be at least 1"),
        (
            [&fixed[..], &["--max-length", "3"], &prompt].concat(),
            "the prompt has 3 tokens, but the cache holds 3",
        ),
        (
            [&fixed[..], &["--temperature", "-1"], &prompt].concat(),
            "--temperature: is -1.0, must be 0 (greedy) or within 0.001..=1000",
        ),
        ([&["--mode", "ar", "--temperature", "nan"], &prompt[..]].concat(), "--temperature: is NaN, must be"),
        (
            [&fixed[..], &["--temperature", "1", "--top-p", "1.5"], &prompt].concat(),
            "--top-p: is 1.5, must be above 0 and at most 1",
        ),
        ([&fixed[..], &["--temperature", "1", "--top-p", "0"], &prompt].concat(), "--top-p: is 0.0, must be"),
        (
            [&fixed[..], &["--temperature", "1", "--top-k", "0"], &prompt].concat(),
            "--top-k: is 0, must be within 1..=2147483647",
        ),
        (
            [&fixed[..], &["--temperature", "warm"], &prompt].concat(),
            "invalid value 'warm' for '--temperature",
        ),
        ([&fixed[..], &["--seed", "-1"], &prompt].concat(), "invalid value '-1' for '--seed <N>'"),
        (
            [&fixed[..], &["--stop-token", "-1"], &prompt].concat(),
            "invalid value '-1' for '--stop-token <TOKEN>': is not a token id",
        ),
        (
            [&fixed[..], &["--stop-token", "260"], &prompt].concat(),
            "stop token 260 (260, from chat.stop_tokens) is outside its vocabulary of 260",
        ),
        (
            [&fixed[..], &["--stop-token", "</s>"], &prompt].concat(),
            "stop token `</s>` can only be named by its id, as there is no tokenizer.json",
        ),
        (
            [&fixed[..], &["--device", "gpu"], &prompt].concat(),
            "--device: is `gpu`, expected cpu, cuda or cuda:N",
        ),
        (
            ["--mode", "ar", "--dump-trees", "x"].into_iter().chain(prompt).collect(),
            "plain decoding has no trees",
        ),
    ] {
        let found = decode(&arguments);
        assert!(found.contains(message), "{arguments:?}: {found}");
    }
    // Before anything else.
    let wrong = ["--target", "nowhere", "--draft", "nowhere", "--mode", "ar", "--token-ids", "x"];
    assert_eq!(refusal("ltd-decode", &wrong), "ltd-decode: --target: folder nowhere does not exist\n");
    let wrong = ["--target", TINY[1], "--draft", "nowhere", "--mode", "ar", "--token-ids", "x"];
    assert_eq!(refusal("ltd-decode", &wrong), "ltd-decode: --draft: folder nowhere does not exist\n");
    if !tch_has_cuda() {
        for device in ["cuda", "auto"] {
            let found = decode(&[&fixed[..], &["--device", device], &prompt].concat());
            assert!(found.contains(&format!("device {device}: ")), "{found}");
        }
    }
}

fn tch_has_cuda() -> bool {
    Path::new("/dev/nvidia0").exists()
}

#[test]
fn training_refuses_what_it_cannot_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let several = train(
        folder.path(),
        |config| config["sede"] = json!(1),
        &["--set", "size.ppo.gamma=2", "--set", "max_new_tokens=0"],
    );
    for message in [
        "config.json:",
        "sede: unknown key",
        "size.ppo.gamma: is 2.0, must be within 0.0..=1.0",
        "max_new_tokens: is 0, must be",
    ] {
        assert!(several.contains(message), "{several}");
    }
    let long = |config: &mut serde_json::Value| config["engine"]["max_length"] = json!(6);
    let found = train(folder.path(), long, &[]);
    assert!(
        found.contains("questions.jsonl: question 1: the prompt has 7 tokens, but the cache holds 6"),
        "{found}"
    );
    let cuda = |config: &mut serde_json::Value| config["engine"]["device"] = json!("cuda:77");
    // The same folder again: an attempt that failed has left no run in it.
    assert!(train(folder.path(), cuda, &[]).contains("device cuda:77: "));

    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let config = config(folder.path(), |_| ());
    let below_file = file.join("run");
    let found = refusal("ltd-train", &["--config", text(&config), "--run-dir", text(&below_file)]);
    assert!(found.contains("run folder") && found.contains("cannot be made"), "{found}");
    assert!(
        refusal("ltd-train", &["--resume", text(folder.path())]).contains("is not a run: it has no run.json")
    );
    assert!(refusal("ltd-train", &["--config", "missing.json"]).contains("missing.json: No such file"));
    let missing = |config: &mut serde_json::Value| {
        config["engine"]["target"] = json!("nowhere");
        config["prompts"]["train"]["file"] = json!("nothing.jsonl");
    };
    let found = train(folder.path(), missing, &[]);
    assert!(found.contains("engine.target: `nowhere` is not there ("), "{found}");
    assert!(found.contains("prompts.train: nothing.jsonl: No such file"), "{found}");
    let stop = |config: &mut serde_json::Value| config["engine"]["chat"] = json!({ "stop_tokens": [2, -1] });
    let found = train(folder.path(), stop, &[]);
    assert!(found.contains("engine.chat.stop_tokens[1]: is -1, expected a token"), "{found}");
}

#[test]
fn a_mistyped_folder_or_file_is_told_as_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let config = text(&config);
    for (program, arguments, message) in [
        ("ltd-train", vec!["--config", "no/such.json"], "no/such.json: folder no does not exist"),
        ("ltd-train", vec!["--resume", "nowhere"], "nowhere: does not exist"),
        (
            "ltd-train",
            vec!["compare", "--config", config, "--policy", "nowhere"],
            "folder nowhere does not exist",
        ),
        (
            "ltd-train",
            vec!["compare", "--config", config, "--questions", "missing.jsonl"],
            "missing.jsonl: No such file",
        ),
        (
            "ltd-train",
            vec!["retarget", "--policy", "nowhere", "--trace", "x", "--latency", "x", "--out", "x"],
            "folder nowhere does not exist",
        ),
        ("ltd-export", vec!["--run", "nowhere", "--out", "x"], "nowhere: does not exist"),
        ("ltd-trace", vec!["merge", "nowhere", "--out", "x"], "folder nowhere does not exist"),
        (
            "ltd-trace",
            vec!["latency", "--config", "missing.json", "--out", "x"],
            "missing.json: No such file",
        ),
        (
            "ltd-bench",
            vec!["engine", "--config", "missing.json", "--json", "x.json"],
            "missing.json: No such file",
        ),
    ] {
        let found = refusal(program, &arguments);
        assert!(found.contains(message), "{program} {arguments:?}: {found}");
    }
}

#[test]
fn a_damaged_package_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["stages"] =
            json!({ "size": { "total_timesteps": 128 }, "depth": null, "rounds": 0, "candidates": 1 });
    });
    let (run, out) = (folder.path().join("run"), folder.path().join("policies"));
    stdout("ltd-train", &["--config", text(&config), "--run-dir", text(&run)]);
    stdout("ltd-export", &["--run", text(&run), "--out", text(&out)]);
    let found = refusal("ltd-export", &["--run", text(&run), "--out", text(&out)]);
    assert!(found.contains("exists and is not empty"), "{found}");
    let decode_with = |extra: &[&str]| {
        decode(&[&["--mode", "policy", "--policy", text(&out), "--token-ids", "5 6 7"], extra].concat())
    };
    let found = decode_with(&["--beam-width", "4"]);
    assert!(found.contains("--beam-width: is 4, but the policies were trained with 10"), "{found}");
    let path = out.join("size.safetensors");
    let mut bytes = std::fs::read(&path).expect("the policy");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, bytes).expect("written");
    assert!(decode_with(&[]).contains("size.safetensors: SHA-256 is"));
}

#[test]
fn places_of_results_are_looked_at_before_anything_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (occupied, nowhere) = (path("occupied"), path("nowhere/result"));
    std::fs::create_dir(&occupied).expect("a folder");
    std::fs::write(path("occupied/file"), "").expect("written");
    let below_file = path("occupied/file/result");
    // Nothing of what the commands read is there: whoever looked at it first would say so.
    let compare = ["compare", "--config", "missing.json", "--json"];
    let decode = [&TINY[..], &["--mode", "static", "--depth", "1", "--size", "4"]].concat();
    let decode = [&decode[..], &["--token-ids", "5 999", "--dump-trees"]].concat();
    let bench = ["engine", "--config", "missing.json", "--json"];
    let latency = ["latency", "--config", "missing.json", "--out"];
    let oracle = ["oracle", "--trace", "missing", "--latency", "missing.json", "--plot"];
    for (program, arguments) in [
        ("ltd-train", &compare[..]),
        ("ltd-decode", &decode),
        ("ltd-bench", &bench),
        ("ltd-trace", &latency),
        ("ltd-trace", &oracle),
    ] {
        let flag = arguments.last().expect("a flag");
        for (place, problem) in [
            (&occupied, "is a folder, expected a file"),
            (&nowhere, "nowhere does not exist"),
            (&below_file, "file is not a folder"),
        ] {
            let found = refusal(program, &[arguments, &[place]].concat());
            assert_eq!(found.lines().count(), 1, "{found}");
            assert!(found.starts_with(&format!("{program}: {flag}: {place}: ")), "{found}");
            assert!(found.trim_end().ends_with(problem), "{found}");
        }
    }
    let retarget =
        ["retarget", "--policy", "missing", "--trace", "missing", "--latency", "missing.json", "--out"];
    let export = ["--run", "missing", "--out"];
    for (program, arguments) in [("ltd-train", &retarget[..]), ("ltd-export", &export)] {
        let found = refusal(program, &[arguments, &[&occupied]].concat());
        assert!(found.contains(&format!("--out: {occupied}: ")), "{found}");
        assert!(found.contains("exists and is not empty") || found.contains("is a file"), "{found}");
    }
    let record = ["record", "--config", "missing.json", "--questions", "missing.jsonl", "--out"];
    let merge = ["merge", "missing", "--out"];
    for (program, arguments) in
        [("ltd-train", &retarget[..]), ("ltd-export", &export), ("ltd-trace", &record), ("ltd-trace", &merge)]
    {
        let found = refusal(program, &[arguments, &[&below_file]].concat());
        assert!(found.contains(&format!("--out: {below_file}: ")), "{found}");
        assert!(found.trim_end().ends_with("file is not a folder"), "{found}");
    }
    // Looking leaves nothing behind.
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn numbers_beyond_all_bounds_are_refused_with_their_flag_and_their_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |_| ());
    let json = folder.path().join("engine.json");
    let fixed = [&TINY[..], &["--mode", "static", "--token-ids", "5 6 7"]].concat();
    let compare = ["compare", "--config", text(&config), "--questions", "missing.jsonl"];
    let retarget = ["retarget", "--policy", "x", "--trace", "x", "--latency", "x", "--out", "x"];
    let record = ["record", "--config", text(&config), "--questions", "x", "--out", "x"];
    let latency = ["latency", "--config", text(&config), "--out", "x"];
    let bench = ["engine", "--config", text(&config), "--json", text(&json)];
    let (beyond, huge) = ("9223372036854775808", "1e300");
    for (program, base, flag, values, limit) in [
        ("ltd-decode", &fixed, "--size", &[beyond, huge, "-1"][..], "4096"),
        ("ltd-decode", &fixed, "--max-new-tokens", &[beyond, huge, "0"], "4294967295"),
        ("ltd-train", &compare.to_vec(), "--limit", &[beyond, huge, "0"], "4294967295"),
        ("ltd-train", &compare.to_vec(), "--repetitions", &[beyond, huge, "0"], "4294967295"),
        ("ltd-train", &compare.to_vec(), "--max-minutes", &[huge, "0", "nan"], "1000000"),
        (
            "ltd-train",
            &compare.to_vec(),
            "--copy-rule",
            &["2,8,1", "0,8,1,4", "2,0,1,4", "2,8,1,0"],
            "expected",
        ),
        ("ltd-train", &compare.to_vec(), "--constant", &["1,9223372036854775808", "1,0", "x"], "4096"),
        ("ltd-train", &retarget.to_vec(), "--steps", &[beyond, huge, "0"], "4294967295"),
        ("ltd-trace", &record.to_vec(), "--limit", &["0"], "18446744073709551615"),
        ("ltd-trace", &record.to_vec(), "--batch", &[beyond, "0"], "256"),
        ("ltd-trace", &record.to_vec(), "--every", &[beyond, "0"], "65535"),
        ("ltd-trace", &latency.to_vec(), "--repeats", &[beyond, "0"], "65535"),
        ("ltd-bench", &bench.to_vec(), "--tokens", &[beyond, "0"], "4096"),
        ("ltd-bench", &bench.to_vec(), "--trees", &["1x9223372036854775808", "99x4", "1x0"], "4096"),
        ("ltd-bench", &bench.to_vec(), "--context", &[beyond, "0"], "16777216"),
        ("ltd-bench", &bench.to_vec(), "--prompts", &[beyond, "0"], "1048576"),
        ("ltd-bench", &bench.to_vec(), "--max-new-tokens", &[beyond, "0"], "16777216"),
        ("ltd-bench", &bench.to_vec(), "--repeats", &[beyond, "0"], "16777216"),
        ("ltd-bench", &bench.to_vec(), "--memory-cycles", &[beyond, "0"], "16777216"),
    ] {
        for value in values {
            let argument = format!("{flag}={value}");
            let found = refusal(program, &[&base[..], &[&argument]].concat());
            assert!(found.contains(flag) && found.contains(value), "{program} {argument}: {found}");
            // What is no number of the kind at all has no limit to name.
            let is_beyond = *value == beyond || *value == "0";
            assert!(!is_beyond || found.contains(limit), "{program} {argument}: {found}");
        }
    }
    let fixed = [&fixed[..], &["--depth", "1", "--size", "4", "--temperature", "1"]].concat();
    for (arguments, problem) in [
        (["--top-k", beyond], format!("--top-k: is {beyond}, must be within 1..=2147483647")),
        (["--temperature", huge], "--temperature: is 1e300, must be 0 (greedy) or within".to_owned()),
        (["--max-length", beyond], format!("--max-length: is {beyond}, must be within 2..=16777216")),
    ] {
        let base: Vec<&str> =
            fixed.iter().copied().take(if arguments[0] == "--temperature" { 14 } else { 99 }).collect();
        let found = refusal("ltd-decode", &[&base[..], &arguments].concat());
        assert!(found.contains(&problem), "{arguments:?}: {found}");
    }
    // A dry run finds what the run would.
    for (value, problem) in [
        ("engine.device=gpu", "engine.device: is `gpu`, expected cpu, cuda or cuda:N"),
        ("engine.devices=[\"cpu\",\"gpu\"]", "engine.devices: is `gpu`, expected cpu, cuda or cuda:N"),
        ("engine.chat.stop_tokens=[2,4000]", "stop token 4000 (4000, from chat.stop_tokens) is outside"),
        ("replay.trace=nowhere", "folder nowhere does not exist"),
        ("replay.trace=tests", "tests: is not a trace: it has no trace.json"),
        ("replay.latency=nowhere.json", "nowhere.json: "),
    ] {
        let arguments = ["--config", text(&config), "--dry-run", "--set", "replay={}", "--set", value];
        let found = refusal("ltd-train", &arguments);
        assert!(found.contains(problem), "{value}: {found}");
    }
    // A plan of ten million rounds is not made.
    for (value, problem) in [
        ("stages.rounds=10000000", "must be at most 1000 stages together"),
        ("stages.size.max_minutes=1e300", "is 1e300 minutes, must be within"),
    ] {
        let found = refusal("ltd-train", &["--config", text(&config), "--dry-run", "--set", value]);
        assert!(found.contains(problem), "{value}: {found}");
    }
}

#[test]
fn prompts_of_two_sets_are_told_apart_by_what_they_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = config(folder.path(), |_| ());
    let questions = folder.path().join("questions.jsonl");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("a")).expect("a folder");
    std::fs::copy(&questions, at("copy.jsonl")).expect("a copy");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&questions, at("link.jsonl")).expect("a link");
    // The same prompts under other names, in another order, beside others.
    let lines = std::fs::read_to_string(&questions).expect("questions");
    let named = lines.lines().rev().enumerate().map(|(index, line)| {
        line.replacen('{', &format!("{{\"question_id\": \"other/{index}\", "), 1) + "\n"
    });
    std::fs::write(at("renamed.jsonl"), named.collect::<String>()).expect("written");
    let set = |name: &str, file: &Path, skip: usize, take: usize| {
        format!("prompts.{name}={}", json!({ "file": file, "skip": skip, "take": take }))
    };
    // Of the ten, six are learned from and two validate.
    for (file, skip, named) in [
        (questions.clone(), 5, "question 6"),
        (at("./questions.jsonl"), 5, "question 6"),
        (at("a/../questions.jsonl"), 5, "question 6"),
        (at("copy.jsonl"), 5, "question 6"),
        (at("link.jsonl"), 5, "question 6"),
        (at("renamed.jsonl"), 4, "question 6 (there question other/4)"),
    ] {
        let change = set("train", &file, skip, 1);
        let arguments = ["--config", text(&path), "--set", &change];
        // The set that is measured on is taken as it is; what is learned from is the culprit's
        // name.
        let evaluation = set("evaluation", &questions, 5, 1);
        let expected = format!(
            "prompts.evaluation has 1 prompt ({named}) of prompts.train: measure on other prompts than are \
             learned from"
        );
        let dry = refusal("ltd-train", &[&arguments[..], &["--set", &evaluation, "--dry-run"]].concat());
        assert!(dry.contains(&expected), "{dry}");
        let run = at("run");
        let arguments = [&arguments[..], &["--set", &evaluation, "--run-dir", text(&run)]].concat();
        let found = refusal("ltd-train", &arguments);
        assert!(found.contains(&expected) && !run.join("run.json").exists(), "{found}");
    }
    // All overlaps are said at once, and many prompts are counted.
    let (all, some) = (set("train", &questions, 0, 10), set("validation", &at("copy.jsonl"), 8, 1));
    let arguments = ["--config", text(&path), "--dry-run", "--set", &all, "--set", &some];
    let found = refusal("ltd-train", &arguments);
    for expected in [
        "prompts.validation has 1 prompt (question 9) of prompts.train; ",
        "prompts.evaluation has 2 prompts (question 9, question 10) of prompts.train; ",
        "prompts.evaluation has 1 prompt (question 9) of prompts.validation: ",
    ] {
        assert!(found.contains(expected), "{found}");
    }
    // Twice in one set is odd, and no more.
    let twice = lines.lines().take(6).chain(lines.lines().take(1)).map(|line| line.to_owned() + "\n");
    std::fs::write(at("twice.jsonl"), twice.collect::<String>()).expect("written");
    let output = crate::command::run(
        "ltd-train",
        &["--config", text(&path), "--dry-run", "--set", &set("train", &at("twice.jsonl"), 0, 7)],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let expected = "warning: prompts.train has 1 prompt (question 7 (there question 1)) of its own again";
    assert!(errors.contains(expected), "{errors}");
}
