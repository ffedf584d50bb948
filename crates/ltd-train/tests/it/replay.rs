//! Training on recorded cycles of the tiny pair.

use std::path::Path;

use ltd_engine::text::{TextModel, load_questions};
use ltd_engine::{Engine, StopRule, fingerprint};
use ltd_env::trace::{TRACE_VERSION, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::{DecisionCost, GridPoint, LatencyIdentity, LatencyTable, Surface, sha256_hex};
use ltd_train::{Ending, Interrupt, Progress, TrainConfig, Trainer, metrics::tags};
use serde_json::{Value, json};

use crate::tiny::{config, questions};

fn parse(value: &Value) -> TrainConfig {
    TrainConfig::parse(&value.to_string(), Path::new("test.json"), &[]).expect("a configuration")
}

/// Records the first `count` questions.
fn record(folder: &Path, value: &Value, count: usize) {
    let config = parse(value);
    let file = questions(folder);
    let engine = Engine::load(&config.engine).expect("an engine");
    let text = TextModel::load(&config.engine.target).expect("a tokenizer");
    let prompts =
        text.prompts(&load_questions(&file, 0, Some(count)).expect("questions"), &file).expect("prompts");
    let header = TraceHeader {
        version: TRACE_VERSION,
        target: fingerprint(&config.engine.target).expect("a fingerprint"),
        draft: fingerprint(&config.engine.draft).expect("a fingerprint"),
        dtype: "f32".into(),
        beam_width: engine.beam_width(),
        depth: engine.max_depth(),
        max_new_tokens: 24,
        capacity: engine.capacity(),
        eos: text.eos().to_vec(),
        questions: file.clone(),
        questions_sha256: sha256_hex(&std::fs::read(&file).expect("questions")),
    };
    let stop = StopRule { max_new_tokens: 24, eos: text.eos().to_vec() };
    let mut writer = TraceWriter::open(&folder.join("trace"), header).expect("a trace");
    for (number, prompt) in (0..).zip(&prompts) {
        if !writer.recorded().contains(&number) {
            let sequence = record_sequence(&engine, number, &prompt.ids, &stop, engine.max_depth(), 8);
            writer.append(&sequence.expect("a recording")).expect("written");
        }
    }
}

/// A table of a machine whose verification costs so much per candidate.
fn table(value: &Value, largest: usize, ms_per_candidate: f64) -> LatencyTable {
    let surface = |counts: &[usize], ms: &dyn Fn(f64) -> f64| {
        let points = [4, 128].into_iter().flat_map(|context| {
            counts.iter().map(move |&count| GridPoint::new(count, context, vec![ms(count as f64) as f32; 3]))
        });
        Surface { points: points.collect() }
    };
    let config = parse(value);
    let identity = LatencyIdentity {
        target: fingerprint(&config.engine.target).expect("a fingerprint").sha256,
        draft: fingerprint(&config.engine.draft).expect("a fingerprint").sha256,
        dtype: "f32".into(),
        device: "cpu".into(),
        driver: None,
        threads: 1,
        machine: "test".into(),
        beam_width: 10,
    };
    LatencyTable {
        version: LatencyTable::VERSION,
        identity,
        root: surface(&[1, 13], &|rows| 1.0 + 0.01 * rows),
        level: surface(&[1, 12], &|depth| 1.0 + 0.001 * depth),
        verify: surface(&[1, largest], &|size| 5.0 + ms_per_candidate * size),
        decision: DecisionCost { depth_us: 5.0, size_us: 5.0 },
        held_out_error: None,
    }
}

fn replayed(folder: &Path) -> Value {
    let mut value = config(folder);
    value["reward"] = json!("gain");
    value["replay"] = json!({ "trace": folder.join("trace"), "latency": folder.join("latency.json") });
    value
}

fn train(value: &Value, run: &Path) -> Vec<Vec<u8>> {
    let trainer = Trainer::create(parse(value), run, Progress::Silent, Interrupt::default());
    assert!(matches!(trainer.expect("a run").learn().expect("it finishes"), Ending::Finished { .. }));
    let policies = ["01-size/size.safetensors", "02-depth/depth.safetensors"];
    policies.iter().map(|path| std::fs::read(run.join("stages").join(path)).expect("a policy")).collect()
}

#[test]
fn runs_on_recorded_cycles_are_the_same_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = replayed(folder.path());
    record(folder.path(), &value, 8);
    table(&value, 64, 0.1).write(&folder.path().join("latency.json")).expect("written");
    let first = train(&value, &folder.path().join("first"));
    assert_eq!(train(&value, &folder.path().join("second")), first);
    let metrics = std::fs::read_to_string(folder.path().join("first/metrics.jsonl")).expect("curves");
    assert!(metrics.contains(tags::LAMBDA), "the reward is gain");
    // Knowing every outcome teaches another policy, the same each time.
    let mut exact = value.clone();
    for kind in ["depth", "size"] {
        exact[kind]["ppo"]["advantage"] = json!("exact");
    }
    let known = train(&exact, &folder.path().join("known"));
    assert_ne!(known, first);
    assert_eq!(train(&exact, &folder.path().join("known again")), known);
    // Other costs teach other policies.
    table(&value, 64, 3.0).write(&folder.path().join("latency.json")).expect("written");
    assert_ne!(train(&value, &folder.path().join("third")), first);
}

#[test]
fn recordings_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = replayed(folder.path());
    record(folder.path(), &value, 8);
    let latency = folder.path().join("latency.json");
    let refuse = |value: &Value, message: &str| {
        let run = folder.path().join("refused");
        let error = Trainer::create(parse(value), &run, Progress::Silent, Interrupt::default());
        let error = error.err().expect(message);
        assert!(error.is_usage() && error.to_string().contains(message), "{error}");
        assert!(!run.join("run.json").exists(), "a refused run leaves no run behind");
    };
    refuse(&value, "latency.json");
    table(&value, 40, 0.1).write(&latency).expect("written");
    refuse(&value, "verification sizes 2 to 64 are needed, 1 to 40 measured");
    let mut other = table(&value, 64, 0.1);
    other.identity.draft = "another".into();
    other.write(&latency).expect("written");
    refuse(&value, "its draft is another");
    table(&value, 64, 0.1).write(&latency).expect("written");
    let mut narrow = value.clone();
    narrow["engine"]["beam_width"] = json!(4);
    narrow["size"] = json!({ "sizes": [2, 4] });
    refuse(&narrow, "its beam width is 10, that of this run is 4");
    let mut deep = value.clone();
    deep["engine"]["max_depth"] = json!(9);
    deep["depth"] = json!({ "actions": { "max_depth": 9 } });
    refuse(&deep, "its trees are 6 deep, this run asks for 9");
    record(folder.path(), &value, 9);
    refuse(&value, "it has question 8, which is one of prompts.validation");
    let mut sampled = value;
    sampled["sampling"] = json!({ "temperature": 1.0 });
    let error = TrainConfig::parse(&sampled.to_string(), Path::new("test.json"), &[]).expect_err("sampling");
    assert!(error.to_string().contains("replay: needs greedy decoding"), "{error}");
}
