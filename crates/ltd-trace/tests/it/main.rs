//! The command line, on the tiny pair.

mod shards;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ltd_engine::fingerprint;
use ltd_env::trace::{Outline, Trace, TraceWriter};
use ltd_policy::{DecisionCost, LatencyIdentity, LatencyTable, Surface};
use serde_json::json;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn run(arguments: &[&str]) -> Output {
    run_in(&[], arguments)
}

/// With variables of a launcher, and with none of what may have launched the tests.
fn run_in(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ltd-trace"));
    let launchers =
        ["RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX"];
    for variable in launchers {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied());
    command.args(arguments).current_dir(workspace()).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn refuse(arguments: &[&str], message: &str) {
    let output = run(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains(message), "{arguments:?}: {error}");
}

/// A configuration of the tiny pair with some prompts.
fn config(folder: &Path) -> (String, String) {
    let questions = folder.join("questions.jsonl");
    let lines =
        ["The cat sat", "Once upon a time", "In the beginning"].iter().enumerate().map(|(id, words)| {
            let ids: Vec<u32> = words.bytes().map(|byte| u32::from(byte) + 4).collect();
            format!("{{\"question_id\": {id}, \"token_ids\": {ids:?}}}\n")
        });
    std::fs::write(&questions, lines.collect::<String>()).expect("written");
    let questions = questions.to_str().expect("a path").to_owned();
    let set = |skip: usize| format!(r#"{{"file": {questions:?}, "skip": {skip}, "take": 1}}"#);
    let pair = "tests/fixtures/tiny-pair";
    let text = format!(
        r#"{{"engine": {{"target": "{pair}/target", "draft": "{pair}/draft", "dtype": "f32", "max_length": 300}},
            "prompts": {{"train": {}, "validation": {}, "evaluation": {}}}, "max_new_tokens": 20}}"#,
        set(0),
        set(1),
        set(2)
    );
    let path = folder.join("config.json");
    std::fs::write(&path, text).expect("written");
    (path.to_str().expect("a path").to_owned(), questions)
}

/// A table of a machine of our own, for the tiny pair.
fn table() -> LatencyTable {
    let contexts = [8, 200];
    let pair = workspace().join("tests/fixtures/tiny-pair");
    let sha256 = |part: &str| fingerprint(&pair.join(part)).expect("a fingerprint").sha256;
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: sha256("target"),
            draft: sha256("draft"),
            beam_width: 10,
            ..LatencyIdentity::default()
        },
        root: Surface::from_fn(&[1, 13], &contexts, |rows, _| 1.0 + 0.1 * rows),
        level: Surface::from_fn(&[1, 8], &contexts, |depth, _| 1.0 + 0.01 * depth),
        level_rows: None,
        verify: Surface::from_fn(&[1, 8, 64], &contexts, |size, _| 9.0 + 0.1 * size),
        decision: DecisionCost { depth_us: 10.0, size_us: 20.0 },
        held_out_error: None,
    }
}

#[test]
fn from_prompts_to_what_a_policy_could_gain() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, questions) = config(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (trace, rest, all, latency) = (path("trace"), path("rest"), path("all"), path("latency.json"));
    let record = |limit: &str, out: &str, skip: &str| {
        succeed(&[
            "record",
            "--config",
            &config,
            "--questions",
            &questions,
            "--limit",
            limit,
            "--skip",
            skip,
            "--out",
            out,
        ])
    };
    record("1", &trace, "0");
    // The second call goes on where the first one ended.
    record("2", &trace, "0");
    record("1", &rest, "2");
    let merged = succeed(&["merge", "--out", &all, &trace, &rest]);
    assert!(merged.contains("2 of 2 prompts") && merged.contains("1 of 1 prompts"), "{merged}");

    // What is recorded with gaps is no trace to replay.
    let (gaps, every) = (path("gaps"), ["--every", "4", "--entropies", "--hidden"]);
    let arguments =
        ["record", "--config", &config, "--questions", &questions, "--limit", "1", "--out", &gaps];
    succeed(&[&arguments[..], &every[..]].concat());

    // Beside other programs a forward of the tiny pair can take ten times as long as alone: then
    // this is said.
    let output = run(&["latency", "--config", &config, "--repeats", "5", "--out", &latency]);
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        assert!(
            found.contains("| verification size | verify ms |") && found.contains("error on 60 live cycles")
        );
        LatencyTable::read(Path::new(&latency)).expect("a table");
    } else {
        assert!(output.status.code() == Some(1) && error.contains("quiet machine"), "{error}");
        assert!(!Path::new(&latency).exists(), "half a table");
    }
    table().write(Path::new(&latency)).expect("written");

    check_findings(&path, &all, &rest, &latency);

    // Bad input, with what was made.
    refuse(&["oracle", "--trace", &gaps, "--latency", &latency], "record without --every");
    refuse(&arguments, "is a trace whose every is 4, not 1");
    let written = std::fs::read_to_string(&latency).expect("a table");
    let other = written.replacen("\"beam_width\":10", "\"beam_width\":4", 1);
    std::fs::write(path("other.json"), other).expect("written");
    refuse(&["oracle", "--trace", &all, "--latency", &path("other.json")], "its beam width is 10");
    refuse(
        &[
            "record",
            "--config",
            &config,
            "--set",
            "engine.beam_width=4",
            "--questions",
            &questions,
            "--out",
            &all,
        ],
        "is a trace whose beam_width is 10, not 4",
    );
    let broken =
        std::fs::read_to_string(&latency).expect("a table").replacen("\"version\":2", "\"version\":7", 1);
    std::fs::write(path("broken.json"), broken).expect("written");
    refuse(&["oracle", "--trace", &all, "--latency", &path("broken.json")], "version 7");
    refuse(&["record", "--config", &config, "--questions", "nowhere.jsonl", "--out", &all], "nowhere.jsonl");
    refuse(
        &["latency", "--config", &config, "--set", "engine.max_length=90", "--out", &latency],
        "leave no room",
    );
}

/// What the oracle finds on traces, in words, as JSON and as a picture.
fn check_findings(path: &dyn Fn(&str) -> String, all: &str, rest: &str, latency: &str) {
    write_package(Path::new(&path("policies")), &table().identity);
    let other = LatencyIdentity { target: "another".to_owned(), ..table().identity };
    write_package(Path::new(&path("others")), &other);
    let others = ["oracle", "--trace", all, "--latency", latency, "--policy", &path("others")];
    refuse(&others, "its target is tiny (another), that of ");
    succeed(&[&others[..], &["--any-models"]].concat());
    let (policies, plot) = (path("policies"), path("grid.svg"));
    let oracle = ["oracle", "--trace", all, "--latency", latency];
    let tables = succeed(&oracle);
    assert!(tables.contains("| best constant: depth") && tables.contains("3 prompts"), "{tables}");
    assert!(!tables.contains("all traces together"), "{tables}");
    assert!(
        tables.contains("| best copy rule: ") && tables.contains("| foresight of all three | "),
        "{tables}"
    );
    assert!(tables.contains("merged with ") && tables.contains(" where 1 matches, depth "), "{tables}");

    let more = ["--trace", rest, "--policy", &policies, "--plot", &plot];
    let tables = succeed(&[&oracle[..], &more].concat());
    assert!(tables.contains("best constant of all traces together: depth"), "{tables}");
    assert!(tables.contains(&format!("| {policies} | always 2 | always 8 |")), "{tables}");
    check_picture(&std::fs::read_to_string(&plot).expect("a picture"));

    let json = succeed(&[&oracle[..], &more, &["--json"]].concat());
    let findings: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let report = &findings["traces"][0];
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let constant = number(&report["best_constant"]["tokens_per_second"]);
    let of_one = number(&report["clairvoyant_size"]).min(number(&report["clairvoyant_depth"]));
    assert!(of_one >= constant && number(&report["clairvoyant"]) >= of_one, "{json}");
    let rule = &report["best_copy_rule"];
    let (chain, of_rule) = (rule["chain"].as_u64(), number(&rule["tokens_per_second"]));
    assert!(chain > Some(0) && rule["depth"].is_u64(), "{json}");
    let merged = &report["best_merged_rule"];
    assert_eq!(merged["chain"].as_u64(), chain, "{json}");
    assert!(number(&merged["tokens_per_second"]) > 0.0 && merged["depth"].is_u64(), "{json}");
    let (source, all) = (number(&report["clairvoyant_source"]), number(&report["clairvoyant_copies"]));
    assert!(source >= of_rule && all >= source && all >= number(&report["clairvoyant"]), "{json}");
    assert_eq!(number(&report["loops"]) > 0.0, report["without_loops"].is_object(), "{json}");
    let size = &report["policies"][0]["size"];
    // A tree of depth 2 holds more than 8.
    let cycles = size["histogram"]["8"].as_u64();
    assert!(size["is_constant"] == true && size["std"] == 0.0 && cycles > Some(0), "{json}");
    let losses = findings["common_constant"]["traces"].as_array().expect("one of each");
    assert_eq!(losses.len(), 2);
    assert!(losses.iter().all(|loss| number(&loss["lost"]) >= 0.0), "{json}");

    let output = run(&[&oracle[..], &["--plot", "nowhere/grid.svg"]].concat());
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("nowhere/grid.svg: "), "{error}");
}

/// A picture of two traces is well-formed XML with all marks.
fn check_picture(svg: &str) {
    let document = roxmltree::Document::parse(svg).expect("XML");
    let root = document.root_element();
    assert_eq!(
        (root.tag_name().name(), root.attribute("width"), root.attribute("height")),
        ("svg", Some("900"), Some("1040"))
    );
    let texts: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter_map(|node| node.text())
        .map(str::trim)
        .collect();
    let starts = |start: &str| texts.iter().filter(|text| text.starts_with(start)).count();
    assert_eq!((starts("circle: best constant, depth "), starts("verification size")), (2, 2), "{texts:?}");
    let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!(count("circle"), 2, "one best constant per trace");
    // A line for each of the depths 0 to 8.
    assert!(count("polyline") >= 2 * 9, "{svg}");
}

/// A package of two constants, depth 2 and size 8.
fn write_package(folder: &Path, models: &LatencyIdentity) {
    let model = |sha256: &str| json!({ "name": "tiny", "sha256": sha256 });
    let constant = |value: usize| json!({ "constant": { "value": value } });
    let manifest = json!({
        "format_version": 2, "created_by": "a test", "run": "", "stage": "", "seed": 1, "compat": null,
        "beam_width": 10, "depth_cap": 12, "target": model(&models.target),
        "draft": model(&models.draft), "dtype": "f32", "device": "cpu",
        "latency_table_sha256": null, "objective": "gain", "expected": null, "acceptance_per_depth": [],
        "policy": { "pair": { "depth": constant(2), "size": constant(8) } }, "fallback": null, "files": {},
    });
    std::fs::create_dir(folder).expect("a folder");
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).expect("written");
}

#[test]
fn a_second_process_does_not_write_to_a_trace_under_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, questions) = config(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let record = |limit: &'static str, out: &str| {
        let arguments =
            ["record", "--config", &config, "--questions", &questions, "--limit", limit, "--out", out];
        run(&arguments)
    };
    let (alone, shared) = (path("alone"), path("shared"));
    for out in [&alone, &shared] {
        assert!(record("2", out).status.success());
    }
    let expected = Trace::read(Path::new(&alone)).expect("a trace");

    // This process is the first one.
    let writer = TraceWriter::open(Path::new(&shared), expected.header.clone()).expect("it goes on");
    for output in [record("3", &shared), run(&["merge", "--out", &shared, &alone])] {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains(&format!("ltd-trace: {shared}: another process is writing this trace")),
            "{error}"
        );
    }
    assert_eq!(Trace::read(Path::new(&shared)).expect("a trace"), expected);
    drop(writer);

    assert!(record("3", &shared).status.success());
    let trace = Trace::read(Path::new(&shared)).expect("a trace");
    assert_eq!((trace.len(), trace.part(0..2)), (3, expected));
}

#[test]
fn each_prompt_is_recorded_once_per_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, questions) = config(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (all, more, latency) = (path("all"), path("more"), path("latency.json"));
    let record = ["record", "--config", &config, "--questions", &questions];
    let (two, third) = ([&record[..], &["--limit", "2"]].concat(), [&record[..], &["--skip", "2"]].concat());
    let drawn = ["--temperature", "1", "--top-p", "0.9"];
    let read = |folder: &str| Trace::read(Path::new(folder)).expect("a trace");
    let keys = |folder: &str| read(folder).outlines().map(Outline::key).collect::<Vec<_>>();

    let said = run(&[&two[..], &drawn, &["--seed", "1,2", "--out", &all]].concat());
    assert!(text(&said.stderr).contains("now holds 4 continuations"), "{}", text(&said.stderr));
    assert_eq!(keys(&all), [(0, 1), (0, 2), (1, 1), (1, 2)]);
    // It goes on, with one more seed.
    succeed(&[&two[..], &drawn, &["--seed", "1", "--seed", "9", "--out", &all]].concat());
    assert_eq!(keys(&all), [(0, 1), (0, 2), (0, 9), (1, 1), (1, 2), (1, 9)]);
    // A prompt's number is that in the file, whatever is passed over. What is not given is as the
    // configuration has it.
    let configured = ["--set", "sampling={\"temperature\": 1, \"top_p\": 0.9}", "--set", "seed=2"];
    succeed(&[&third[..], &configured, &["--out", &more]].concat());
    assert_eq!(keys(&more), [(2, 2)]);
    let whole = path("whole");
    succeed(&[&record[..], &drawn, &["--seed", "2", "--out", &whole]].concat());
    assert_eq!(read(&whole).part([2]), read(&more));

    let merged = succeed(&["merge", "--out", &all, &more, &whole]);
    assert!(merged.contains("1 of 1 continuations") && merged.contains("0 of 3 continuations"), "{merged}");
    assert_eq!(read(&all).len(), 7);
    table().write(Path::new(&latency)).expect("written");
    let oracle = ["oracle", "--trace", &all, "--latency", &latency];
    let tables = succeed(&oracle);
    assert!(tables.contains("temperature 1, top-p 0.9, 7 continuations of 3 prompts, "), "{tables}");
    let json: serde_json::Value =
        serde_json::from_str(&succeed(&[&oracle[..], &["--json"]].concat())).expect("JSON");
    let report = &json["traces"][0];
    assert_eq!((&report["prompts"], &report["continuations"]), (&json!(3), &json!(7)));
    assert_eq!(report["sampling"]["temperature"], 1.0);

    // Bad input.
    let greedy = path("greedy");
    succeed(&[&two[..], &["--out", &greedy]].concat());
    refuse(
        &["merge", "--out", &path("both"), &greedy, &all],
        "all: is a trace whose sampling is temperature 1",
    );
    refuse(&[&two[..], &drawn, &["--out", &greedy]].concat(), "is a trace whose sampling is greedy, not ");
    refuse(
        &[&two[..], &["--temperature", "0.5", "--out", &all]].concat(),
        "is a trace whose sampling is temperature 1, top-p 0.9, not temperature 0.5",
    );
    let out = path("refused");
    for (arguments, message) in [
        (&["--temperature", "-1"][..], "--temperature: is -1.0, must be 0 (greedy) or within 0.001..=1000"),
        (&["--temperature", "nan"], "--temperature: is NaN, must be"),
        (&["--temperature", "1", "--top-p", "0"], "--top-p: is 0.0, must be above 0"),
        (&["--temperature", "1", "--top-k", "0"], "--top-k: is 0, must be within"),
        (&["--temperature", "1", "--seed", "3,4,3"], "--seed: has 3 twice"),
        (&["--seed", "3"], "--seed: has no effect at temperature 0"),
        (&["--top-p", "0.9"], "--top-p: has no effect at temperature 0"),
        (&["--temperature", "1", "--seed", "-1"], "invalid value '-1' for '--seed <N>'"),
    ] {
        refuse(&[&two[..], arguments, &["--out", &out]].concat(), message);
    }
    assert!(!Path::new(&out).exists(), "what is refused leaves nothing behind");
}
