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
        (vec!["--mode", "ar", "--questions", "missing.jsonl"], "missing.jsonl: No such file"),
        (vec!["--mode", "ar", "--questions", text(&broken)], "broken.jsonl:2: EOF"),
        (vec!["--mode", "ar", "--questions", text(&words)], "words.jsonl: question 1 is text"),
        (vec!["--mode", "ar", "--questions", text(&empty)], "empty.jsonl: no questions"),
        ([&["--mode", "static"], &prompt[..]].concat(), "--depth <D>"),
        ([&["--mode", "ar", "--whole-beam"], &prompt[..]].concat(), "--whole-beam: only constant trees"),
        (
            [&["--mode", "static", "--depth", "13", "--size", "4"], &prompt[..]].concat(),
            "--depth: is 13, must be at most 12",
        ),
        (
            [&["--mode", "policy", "--policy", "nowhere"], &prompt[..]].concat(),
            "nowhere/manifest.json: No such file",
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
        ([&fixed[..], &["--device", "gpu"], &prompt].concat(), "device gpu: expected cpu, cuda or cuda:N"),
        (
            ["--mode", "ar", "--dump-trees", "x"].into_iter().chain(prompt).collect(),
            "plain decoding has no trees",
        ),
    ] {
        let found = decode(&arguments);
        assert!(found.contains(message), "{arguments:?}: {found}");
    }
    let wrong = ["--target", "nowhere", "--draft", "nowhere", "--mode", "ar", "--token-ids", "5"];
    assert!(refusal("ltd-decode", &wrong).contains("nowhere"));
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
        "size.ppo.gamma: is 2, must be within 0..=1",
        "max_new_tokens: must be",
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
        refusal("ltd-train", &["--resume", text(folder.path())]).contains("is no run: it has no run.json")
    );
    assert!(refusal("ltd-train", &["--config", "missing.json"]).contains("missing.json: No such file"));
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
