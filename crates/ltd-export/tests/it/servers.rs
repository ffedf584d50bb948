//! Settings for servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use ltd_cycle::{DraftTree, GrownTree};
use ltd_env::trace::{TRACE_VERSION, TraceHeader, TraceWriter, TracedSequence};
use ltd_export::servers::{Place, Server, Setting, Trees};
use ltd_policy::{CopyRule, LatencyIdentity, ModelIdentity, SamplingParams};
use serde_json::Value;

/// What the servers' own code and pages name; each entry says which.
const NAMES: &str = include_str!("../fixtures/servers.json");
/// Tokens of each prompt, and of each answer.
const LENGTHS: (u32, u32) = (3, 96);

fn settings() -> Vec<Setting> {
    let rule = |match_length| CopyRule { match_length, chain: 8 };
    let [tree, chain] = [10, 1].map(|beam_width| Trees { beam_width, depth: 3, size: 24 });
    vec![
        Setting::Trees(tree),
        Setting::Trees(chain),
        Setting::Copies(rule(1)),
        Setting::Copies(rule(2)),
        Setting::CopiesAndTrees(rule(2), tree),
        Setting::CopiesAndTrees(rule(2), chain),
        Setting::AdaptiveChains(vec![1, 3, 5]),
    ]
}

/// Flags of a command line with their values.
fn flags(line: &str) -> Vec<(String, Option<String>)> {
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for word in line.split_whitespace() {
        match found.last_mut() {
            Some((_, value @ None)) if !word.starts_with("--") => *value = Some(word.to_owned()),
            _ => found.push((word.to_owned(), None)),
        }
    }
    found
}

#[test]
fn what_is_written_has_the_names_that_the_servers_know() {
    let names: Value = serde_json::from_str(NAMES).expect("JSON");
    let place = Place { draft: "head".to_owned(), greedy: true };
    let known = |list: &Value, name: &str| {
        let list = list.as_array().expect("a list");
        assert!(list.iter().any(|known| known == name), "{name} is none of {list:?}");
    };
    let keys = |list: &Value, object: &Value| {
        let object = object.as_object().expect("an object");
        assert!(!object.is_empty());
        for name in object.keys() {
            known(list, name);
        }
    };
    for server in [Server::SgLang, Server::Vllm, Server::TensorRtLlm, Server::LlamaCpp, Server::OpenVino] {
        let names = &names[server.name()];
        assert_eq!(names["version"], server.version());
        let forms: Vec<_> =
            settings().iter().filter_map(|setting| server.form(setting, &place).ok()).collect();
        assert!(forms.len() >= 2, "{} accepts {} settings", server.name(), forms.len());
        for file in forms.iter().flat_map(|form| &form.files) {
            let json = || serde_json::from_str::<Value>(&file.text).expect("JSON");
            match (server, file.name) {
                (Server::SgLang, "sglang-adaptive.json") => {
                    let (list, mut value) = (&names["adaptive"]["names"], json());
                    keys(list, &value.as_object_mut().expect("an object").remove("1").expect("a batch size"));
                    keys(list, &value);
                }
                (Server::Vllm, _) => {
                    let value = file.text.strip_prefix("--speculative-config '").expect("its flag");
                    let value = value.strip_suffix("'\n").expect("a quoted word");
                    keys(&names["names"], &serde_json::from_str(value).expect("JSON"));
                }
                (Server::SgLang | Server::LlamaCpp, _) => {
                    for (flag, value) in flags(&file.text) {
                        known(&names["names"], &flag);
                        if flag == "--spec-type" {
                            let types = value.expect("a value");
                            types.split(',').for_each(|name| known(&names["types"], name));
                        }
                    }
                }
                (Server::TensorRtLlm, _) => {
                    let config = &json()["speculative_config"];
                    let kind = config["decoding_type"].as_str().expect("a name");
                    keys(&names[kind], config);
                }
                (Server::OpenVino, _) => keys(&names["names"], &json()),
            }
        }
    }
}

/// Where a tree's first path is right in all levels: after which token of which prompt.
type Right = fn(u32, usize) -> bool;

/// After three tokens of four.
const MOSTLY: Right = |_, root| root % 4 != 3;

/// Two answers that never say a token twice. Where the first path of a tree is not right, nothing
/// is.
fn record(folder: &Path, beam_width: usize, first: u32, is_right: Right) {
    let model = |name: &str| ModelIdentity { name: name.to_owned(), sha256: "00".to_owned() };
    let depth = 4;
    let header = TraceHeader {
        version: TRACE_VERSION,
        target: model("target"),
        draft: model("draft"),
        dtype: "f32".to_owned(),
        beam_width,
        depth,
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: 2,
        sampling: SamplingParams::default(),
        max_new_tokens: LENGTHS.1 as usize,
        capacity: 128,
        eos: Vec::new(),
        questions: PathBuf::from("questions.jsonl"),
        questions_sha256: "00".to_owned(),
    };
    let mut writer = TraceWriter::open(folder, header.clone()).expect("a trace");
    for prompt in 0..2 {
        let begin = first + 100 * prompt;
        let tokens: Vec<u32> = (begin..begin + LENGTHS.0 + LENGTHS.1).collect();
        let mut sequence = TracedSequence::new(&header, prompt, LENGTHS.0 as usize, tokens.clone());
        for root in LENGTHS.0 as usize..tokens.len() - 1 {
            let right = |level: usize| match tokens.get(root + 1 + level) {
                Some(&token) if is_right(prompt, root) => token,
                _ => 9_999,
            };
            let wrong = |count: usize| (10_000..).take(count);
            let row: Vec<f32> = (0..beam_width).map(|rank| -0.1 - 3.0 * rank as f32).collect();
            let first: Vec<u32> = std::iter::once(right(0)).chain(wrong(beam_width - 1)).collect();
            let mut tree = DraftTree::new(&row, first);
            for level in 1..=depth {
                let rows = tree.frontier().len();
                let tokens: Vec<u32> =
                    std::iter::once(right(level)).chain(wrong(rows * beam_width - 1)).collect();
                tree.push_level(&row.repeat(rows), &tokens);
            }
            sequence.push(&GrownTree::new(root, tree));
        }
        writer.append(&sequence).expect("written");
    }
}

fn price(path: &Path, beam_width: usize, level_ms: f64) {
    let mut table = crate::latency_table(level_ms);
    table.identity = LatencyIdentity { beam_width, machine: "the machine".to_owned(), ..table.identity };
    table.write(path).expect("written");
}

/// How the program ended, with what it printed and what it said.
fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_ltd-export")).args(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
}

/// A run's package, recordings of its trees and of chains, and what both cost.
struct Bench {
    folder: tempfile::TempDir,
    package: String,
}

impl Bench {
    fn new(level_ms: f64) -> Self {
        Self::of(level_ms, MOSTLY)
    }

    fn of(level_ms: f64, is_right: Right) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let run = super::run(folder.path());
        super::export(&run, None, &folder.path().join("package")).expect("an export");
        for (name, beam_width) in [("trees", 3), ("chains", 1)] {
            record(&folder.path().join(name), beam_width, 10, is_right);
            price(&folder.path().join(format!("{name}.json")), beam_width, level_ms);
        }
        let package = folder.path().join("package").display().to_string();
        Self { folder, package }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn ask(&self, servers: &str, chains: Option<&str>, more: &[&str]) -> (Option<i32>, String, String) {
        let (trace, latency) = (self.at("trees"), self.at("trees.json"));
        let mut arguments = vec!["--package", &self.package, "--for", servers];
        arguments.extend(["--trace", &trace, "--latency", &latency]);
        let of_chains = chains.map(|name| (self.at(name), self.at("chains.json")));
        if let Some((chains, latency)) = &of_chains {
            arguments.extend(["--chains", chains, "--chains-latency", latency]);
        }
        arguments.extend(more);
        program(&arguments)
    }
}

#[test]
fn recorded_trees_price_what_each_server_accepts() {
    // A level costs next to nothing: the deepest tree is best, of which one path is right.
    let bench = Bench::new(0.01);
    let out = bench.at("new/settings");
    let (code, printed, said) = bench.ask("sglang,tensorrt-llm", None, &["--out", &out]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        printed.starts_with(&format!("# of {}: target with draft, greedy, f32", bench.package)),
        "{printed}"
    );
    let read = |name: &str| std::fs::read_to_string(Path::new(&out).join(name)).expect("a file");
    assert_eq!(super::entries(Path::new(&out)), ["settings.json", "sglang.args", "tensorrt-llm.yaml"]);
    assert!(read("sglang.args").contains("--speculative-num-steps 5 --speculative-eagle-topk 3 "));
    assert!(printed.contains(&read("sglang.args")) && printed.contains(&read("tensorrt-llm.yaml")));
    let settings: Value = serde_json::from_str(&read("settings.json")).expect("JSON");
    let number = |name: &str| settings[0][name].as_f64().expect("a number");
    // A cycle takes 21.04 ms and yields six tokens, but where nothing is right, one.
    assert!(number("tokens_per_second") > 120.0, "{settings}");
    assert!(
        (number("plain_tokens_per_second") - 50.0).abs() < 1e-6,
        "a verification of one token each: {settings}"
    );
    let lost = (number("lost_to_policy"), number("lost_to_oracle"));
    // Nothing is better than such a tree, but plain decoding where nothing is right.
    assert!(lost.1 > 0.0 && lost.1 < 0.05 && lost.0 <= lost.1, "{lost:?}");
    assert_eq!(settings[0]["version"], "0.5.23");
    let basis = settings[0]["basis"].as_str().expect("text");
    assert!(basis.ends_with("2 prompts, at the costs of the machine"), "{basis}");

    // Where it costs as much as a verification, a shallow one is.
    let (code, printed, said) = Bench::new(40.0).ask("sglang", None, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(printed.contains("--speculative-num-steps 1 "), "{printed}");
}

#[test]
fn the_length_of_a_chain_is_that_of_measured_chains() {
    let bench = Bench::new(0.01);
    // Prompts that never repeat a token leave nothing to copy.
    let (code, printed, said) = bench.ask("vllm", None, &[]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains("length does not follow from trees"), "{said}");
    assert!(said.contains("--chains and --chains-latency beside --trace and --latency"), "{said}");
    assert!(said.contains("plain decoding is as fast as what it accepts"), "{said}");
    let (code, printed, said) =
        bench.ask("vllm,llama.cpp,openvino,sglang", Some("chains"), &["--draft", "/a b"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        printed.contains(
            "\n--speculative-config '{\"method\":\"eagle3\",\"model\":\"/a b\",\"num_speculative_tokens\":5}'\n"
        ),
        "{printed}"
    );
    assert!(printed.contains("--spec-type draft-eagle3 --spec-draft-model '/a b' --spec-draft-n-max 5\n"));
    assert!(printed.contains(" at the costs of the machine\n") && printed.contains("/chains, 2 prompts"));
    assert!(!bench.folder.path().join("settings.json").exists());
}

#[test]
fn adaptive_chains_are_written_where_they_are_faster_than_every_length() {
    // A level costs a fifth of a verification. One answer takes all that is drafted, the other
    // nothing.
    let bench = Bench::of(4.0, |prompt, _| prompt == 0);
    let out = bench.at("settings");
    let (code, printed, said) = bench.ask("sglang,vllm", Some("chains"), &["--out", &out]);
    assert_eq!(code, Some(0), "{said}");
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(Path::new(&out).join(name)).expect(name);
        serde_json::from_str(&text).expect("JSON")
    };
    let value = read("sglang-adaptive.json");
    let lengths = value["1"]["candidate_steps"].as_array().expect("a list");
    assert!(lengths[0] == 1 && lengths.last().is_some_and(|last| last.as_u64() > Some(2)), "{printed}");
    let expected = "--speculative-adaptive-config sglang-adaptive.json\n# sglang-adaptive.json:\n";
    assert!(printed.contains(expected), "{printed}");
    let settings = read("settings.json");
    let lost = |server: usize| settings[server]["lost_to_oracle"].as_f64().expect("a number");
    assert!(lost(0) < lost(1) - 0.02, "{settings}");
}

#[test]
fn chains_of_another_text_and_trees_are_no_chains() {
    let bench = Bench::new(1.0);
    record(Path::new(&bench.at("elsewhere")), 1, 11, MOSTLY);
    let (code, printed, said) = bench.ask("vllm", Some("elsewhere"), &[]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains("elsewhere: has other prompts than"), "{said}");
    // Its table is one of chains: the models of both are compared first.
    let (code, _, said) = bench.ask("vllm", Some("trees"), &[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("beam width is 3"), "{said}");
    let table = std::fs::read_to_string(bench.at("chains.json")).expect("a table");
    std::fs::write(bench.at("chains.json"), table.replace("the machine", "another")).expect("written");
    let (code, _, said) = bench.ask("vllm", Some("chains"), &[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("trees: machine the machine (here: another)"), "{said}");
    std::fs::copy(bench.at("trees.json"), bench.at("chains.json")).expect("copied");
    let (code, _, said) = bench.ask("vllm", Some("trees"), &[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("trees: has trees of beam width 3, expected chains: 1"), "{said}");
}

#[test]
fn a_package_without_a_static_setting_is_refused_and_so_is_a_place_that_is_taken() {
    let bench = Bench::new(1.0);
    let (code, printed, said) = program(&["--package", &bench.package, "--for", "sglang"]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains("its policy decides") && said.contains("--trace and --latency"), "{said}");
    let taken = bench.at("trees");
    let (code, _, said) = bench.ask("sglang", None, &["--out", &taken]);
    assert_eq!(code, Some(2));
    assert!(said.contains("exists and is not empty"), "{said}");
    for arguments in [
        vec!["--package", &bench.package, "--out", "x"],
        vec!["--package", &bench.package, "--for", "sglang", "--trace", "x"],
        vec!["--run", "x"],
        vec!["--for", "sglang"],
        vec!["--package", &bench.package, "--for", "sglang", "--stage", "02-depth"],
        vec!["--run", "x", "--for", "triton"],
    ] {
        let (code, _, said) = program(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[test]
fn a_recording_without_a_position_is_named_with_its_option() {
    let bench = Bench::new(1.0);
    for (name, option, chains) in [("chains", "--chains", Some("chains")), ("trees", "--trace", None)] {
        let folder = bench.at(name);
        for shard in super::entries(Path::new(&folder)).iter().filter(|name| name.starts_with("shard-")) {
            std::fs::remove_file(Path::new(&folder).join(shard)).expect("removed");
        }
        let (code, printed, said) = bench.ask("sglang", chains, &[]);
        assert_eq!((code, printed.as_str()), (Some(2), ""));
        assert!(said.contains(&format!("{option} {folder}: has no position to replay, expected")), "{said}");
    }
}

#[test]
fn a_draft_model_whose_name_steers_a_terminal_must_be_named() {
    let bench = Bench::new(1.0);
    let path = Path::new(&bench.package).join("manifest.json");
    let text = std::fs::read_to_string(&path).expect("a manifest");
    assert!(text.contains(r#""name": "draft""#), "{text}");
    std::fs::write(&path, text.replace(r#""name": "draft""#, r#""name": "a\nb""#)).expect("written");
    let (code, printed, said) = bench.ask("sglang", None, &[]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains(r#"the draft model is "a\nb", whose name has control characters"#), "{said}");
    let (code, printed, said) = bench.ask("sglang", None, &["--draft", "head"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(printed.starts_with(&format!("# of {}: target with a\\nb, ", bench.package)), "{printed}");
}

/// Where nothing can be printed, what was written stays, and the error says so.
#[cfg(target_os = "linux")]
#[test]
fn what_is_written_stays_where_nothing_can_be_printed() {
    let bench = Bench::new(1.0);
    let out = bench.at("settings");
    let (trace, latency) = (bench.at("trees"), bench.at("trees.json"));
    let run = |out: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
        let ended = Command::new(env!("CARGO_BIN_EXE_ltd-export"))
            .args(["--package", &bench.package, "--for", "sglang", "--trace", &trace, "--latency", &latency])
            .args(out)
            .stdout(full)
            .output()
            .expect("it runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = run(&["--out", &out]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("ltd-export: standard output: "), "{said}");
    assert!(said.ends_with(&format!("but --out {out} was written and is whole\n")), "{said}");
    assert_eq!(super::entries(Path::new(&out)), ["settings.json", "sglang.args"]);
    let (code, said) = run(&[]);
    assert!(code == Some(1) && !said.contains("--out"), "{said}");
}

#[test]
fn a_run_tells_what_its_comparison_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = super::run(folder.path());
    let path = run.display().to_string();
    let (code, _, said) = program(&["--run", &path, "--for", "sglang"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("is not finished, summary.json cannot be read"), "{said}");
    let summary = r#"{"prompts": 4, "stage": "02-depth", "best_constant": {"depth": 2, "size": 5, "copies": null}, "contenders": [],
        "predictions": [{"name": "pair", "opponent": 10, "clairvoyant": 20, "gain": 0.25, "gain_at_live_times": null}],
        "grid": [{"depth": 2, "size": 5, "copies": null, "tokens_per_second": 40, "at_live_times": 50}]}"#;
    std::fs::write(run.join("summary.json"), summary).expect("written");
    let (code, printed, said) = program(&["--run", &path, "--for", "sglang,openvino"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        printed.contains("# 50.0 tokens/s, the policy 62.5 (20.0 % lost), foresight 100.0 (50.0 % lost): ")
    );
    assert!(
        printed.contains("{\"branching_factor\":3,\"tree_depth\":3,\"num_assistant_tokens\":5}\n"),
        "{printed}"
    );
    // A stage may be named: the run compared the policy of another.
    std::fs::remove_file(run.join("selected.json")).expect("removed");
    let (code, _, said) = program(&["--run", &path, "--for", "sglang"]);
    assert!(code == Some(2) && said.contains("--stage: 01-size, 02-depth"), "{said}");
    for (stage, expected) in
        [("02-depth", ", the policy 62.5 (20.0 % lost), "), ("01-size", ", the policy was not compared, ")]
    {
        let (code, printed, said) = program(&["--run", &path, "--for", "sglang,sglang", "--stage", stage]);
        assert_eq!(code, Some(0), "{said}");
        assert!(printed.contains(expected), "{printed}");
        assert_eq!(printed.matches("--speculative-algorithm").count(), 1, "{printed}");
    }
    std::fs::write(run.join("selected.json"), r#"{"stage": "02-depth"}"#).expect("written");
    // Servers without trees are told why, and nothing is printed of the others.
    let (code, printed, said) = program(&["--run", &path, "--for", "sglang,vllm"]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(said.contains("vllm: it drafts chains alone") && !said.contains("sglang: "), "{said}");
    std::fs::write(run.join("summary.json"), "{}").expect("written");
    let (code, _, said) = program(&["--run", &path, "--for", "sglang"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("summary.json: missing field"), "{said}");
}
