//! Training on recorded cycles of the tiny pair.

use std::path::Path;

use ltd_engine::text::{TextModel, load_questions};
use ltd_engine::{Controller, Engine, Learned, fingerprint};
use ltd_env::Costs;
use ltd_env::oracle::{decide_at_every_position, replay_sequence};
use ltd_env::trace::{Outline, TRACE_VERSION, Trace, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::{
    Actions, ChoiceEntry, CycleSummary, DecisionCost, DraftSource, GridPoint, LatencyIdentity, LatencyTable,
    Manifest, Policy, PolicyEntry, SourceChoice, SourceSummary, Surface, sha256_hex,
};
use ltd_run::{Interrupt, Progress, TrainConfig};
use ltd_train::metrics::tags;
use ltd_train::{Ending, Trainer};
use serde_json::{Value, json};

use crate::tiny::{config, questions};

fn parse(value: &Value) -> TrainConfig {
    TrainConfig::parse(&value.to_string(), Path::new("test.json"), &[]).expect("a configuration")
}

/// Records the first `count` questions.
pub(crate) fn record(folder: &Path, value: &Value, count: usize) {
    record_with(folder, value, count, true);
}

/// The same, with or without the candidates' tokens.
fn record_with(folder: &Path, value: &Value, count: usize, tokens: bool) {
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
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: if tokens { TraceHeader::bytes_of_token(engine.vocabulary()) } else { 0 },
        sampling: ltd_policy::SamplingParams::default(),
        max_new_tokens: 24,
        capacity: engine.capacity(),
        eos: text.eos().to_vec(),
        questions: file.clone(),
        questions_sha256: sha256_hex(&std::fs::read(&file).expect("questions")),
    };
    let mut writer = TraceWriter::open(&folder.join("trace"), header.clone()).expect("a trace");
    for (number, prompt) in (0..).zip(&prompts) {
        let key = (number, 0);
        if !writer.recorded().contains(&key) {
            let sequence = record_sequence(&engine, &header, key, &prompt.ids, 8, &Interrupt::default());
            writer.append(&sequence.expect("a recording")).expect("written");
        }
    }
}

/// A table of a machine whose verification costs so much per candidate.
pub(crate) fn table(value: &Value, largest: usize, ms_per_candidate: f64) -> LatencyTable {
    let contexts = [4, 128];
    let config = parse(value);
    let identity = LatencyIdentity {
        target: fingerprint(&config.engine.target).expect("a fingerprint").sha256,
        draft: fingerprint(&config.engine.draft).expect("a fingerprint").sha256,
        beam_width: 10,
        ..LatencyIdentity::default()
    };
    let sizes = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48].into_iter().filter(|&size| size < largest);
    let sizes: Vec<usize> = sizes.chain([largest]).collect();
    LatencyTable {
        version: LatencyTable::VERSION,
        identity,
        root: Surface::from_fn(&[1, 13], &contexts, |rows, _| 1.0 + 0.01 * rows),
        level: Surface::from_fn(&[1, 12], &contexts, |depth, _| 1.0 + 0.001 * depth),
        level_rows: None,
        verify: Surface::from_fn(&sizes, &contexts, |size, _| 5.0 + ms_per_candidate * size),
        decision: DecisionCost { depth_us: 5.0, size_us: 5.0 },
        held_out_error: None,
    }
}

/// Writes the table of a machine whose root expansion takes so long.
fn write_table(folder: &Path, value: &Value, root_ms: f64) {
    let root = Surface::from_fn(&[1, 13], &[4, 128], |rows, _| root_ms + 0.01 * rows);
    let table = LatencyTable { root, ..table(value, 64, 0.1) };
    table.write(&folder.join("latency.json")).expect("written");
}

pub(crate) fn replayed(folder: &Path) -> Value {
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
    // So are those whose times scatter; they learn something else.
    let mut noisy = value.clone();
    noisy["replay"]["noise"] = json!(true);
    let mut scattered = table(&value, 64, 0.1);
    for point in &mut scattered.verify.points {
        let samples = [0.7, 1.0, 1.6].map(|ratio| (point.median * ratio) as f32);
        *point = GridPoint::new(point.count, point.context, samples.into());
    }
    scattered.write(&folder.path().join("latency.json")).expect("written");
    let with_noise = train(&noisy, &folder.path().join("noisy"));
    assert_eq!(train(&noisy, &folder.path().join("noisy again")), with_noise);
    assert_ne!(with_noise, first);
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
fn a_run_records_and_trains_both_kinds_of_policies() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = config(folder.path());
    value["reward"] = json!("gain");
    // What a busy machine measures is no ground for a test.
    let latency = folder.path().join("latency.json");
    // Candidates are dear: three limits of the size are tried, none of them the largest.
    table(&value, 64, 2.0).write(&latency).expect("written");
    value["replay"] = json!({ "held_out": 0.25, "latency": latency });
    value["stages"]["predictor"] = json!({ "epochs": 3, "net_arch": [16], "batch_size": 64 });
    // A short live finish.
    value["stages"]["round"] = json!([
        { "train": "size", "total_timesteps": 64 },
        { "train": "source", "total_timesteps": 64 },
        { "train": "depth", "total_timesteps": 64, "backend": "live" },
        { "train": "source", "total_timesteps": 64, "backend": "live" },
    ]);
    let run = folder.path().join("run");
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, Interrupt::default());
    let Ending::Finished { summary } = trainer.expect("a run").learn().expect("it finishes") else {
        panic!("interrupted")
    };
    let trace = Trace::read(&run.join("trace")).expect("a trace");
    assert_eq!(trace.len(), 8);
    let table = LatencyTable::read(&latency).expect("a table");

    let stage = run.join("stages/01-predictor");
    let manifest = Manifest::load(&stage.join("stage.json")).expect("a manifest");
    let Policy::Factored(factored) = manifest.load_policy(&stage).expect("a policy") else {
        panic!("a factored policy")
    };
    assert_eq!(factored.latency, table);
    assert!(factored.rule.tokens_per_second > 0.0);
    let replayed = Manifest::load(&run.join("stages/04-size/stage.json")).expect("a manifest");
    assert!(factored.predictor.actions().size.largest() < 64);
    // The pair chooses among the sizes that the predictor's stage found worth it.
    let PolicyEntry::Pair { size: ChoiceEntry::Learned { actions, .. }, .. } = &replayed.policy else {
        panic!("a learned size")
    };
    assert_eq!(*actions, Actions::Size(factored.predictor.actions().size.clone()));
    assert_eq!(replayed.latency_table_sha256, manifest.latency_table_sha256);
    let live = Manifest::load(&run.join("stages/06-depth/stage.json")).expect("a manifest");
    assert_eq!(live.latency_table_sha256, None);

    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for tag in tags::ALL.into_iter().filter(|tag| tag.starts_with("predictor/")) {
        let values: Vec<f64> = records.iter().filter_map(|record| record["values"][tag].as_f64()).collect();
        // Three tables of sizes, then what to draft from.
        assert_eq!(values.len(), 4 * 3, "{tag}");
        assert!(!tag.ends_with("loss") || values[2] < values[0], "{tag} falls: {values:?}");
    }

    let text = std::fs::read_to_string(run.join("summary.json")).expect("a summary");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let names: Vec<_> =
        json["contenders"].as_array().expect("rows").iter().map(|row| row["name"].clone()).collect();
    assert_eq!(
        names,
        ["ar", "eagle-default", "eagle-constant", "best-constant", "copy-rule", "factored", "pair"]
    );
    let predictions = json["predictions"].as_array().expect("predictions");
    assert_eq!(predictions.len(), 2);
    for prediction in predictions {
        let rate = |field: &str| prediction[field].as_f64().expect("a rate");
        assert!(rate("clairvoyant") >= rate("opponent"), "{prediction}");
        assert!((rate("tokens_per_second") / rate("opponent") - 1.0 - rate("gain")).abs() < 1e-9);
        assert!(rate("gain_at_live_times") > -1.0);
    }
    assert!(summary.contains("Replay of held-out recordings: factored"), "{summary}");

    // The best constant is the fastest in replay at the times that its cycles took live.
    let grid = json["grid"].as_array().expect("constants");
    let at_live_times: Vec<f64> =
        grid.iter().map(|point| point["at_live_times"].as_f64().expect("a rate")).collect();
    assert!(at_live_times.len() > 1 && at_live_times.is_sorted_by(|a, b| a >= b), "{at_live_times:?}");
    let first = |copies: bool| grid.iter().find(|point| point["copies"].is_object() == copies).expect("one");
    for (name, fastest) in [("best_constant", first(false)), ("copy_rule", first(true))] {
        for key in ["depth", "size", "copies"] {
            assert_eq!(json[name][key], fastest[key], "{name}");
        }
    }

    // What ships is what the summary says.
    let ships = json["ships"].as_str().expect("a name");
    let selected = std::fs::read_to_string(run.join("selected.json")).expect("a selection");
    let selected: Value = serde_json::from_str(&selected).expect("JSON");
    let chosen = run.join("stages").join(selected["stage"].as_str().expect("a stage"));
    let manifest = Manifest::load(&chosen.join("stage.json")).expect("a manifest");
    let strongest = if grid[0]["copies"].is_object() { "copy-rule" } else { "best-constant" };
    assert_eq!(manifest.fallback.is_some(), ships == strongest);
    let kind = if matches!(manifest.policy, PolicyEntry::Factored { .. }) { "factored" } else { "pair" };
    assert!([kind, strongest].contains(&ships), "{ships}");

    // A source that was learned on recordings and went on live.
    let stage = run.join("stages/07-source");
    let manifest = Manifest::load(&stage.join("stage.json")).expect("a manifest");
    let policy = manifest.load_policy(&stage).expect("a policy");
    assert!(matches!(policy, Policy::Pair { source: SourceChoice::Learned(_), .. }));
}

#[test]
fn a_pair_that_imitates_the_factored_policy_decides_as_it_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = replayed(folder.path());
    record(folder.path(), &value, 8);
    table(&value, 64, 0.1).write(&folder.path().join("latency.json")).expect("written");
    value["stages"] = json!({
        "size": null,
        "predictor": { "find_size_limit": false, "epochs": 20, "net_arch": [32], "source": false },
        "imitation": { "epochs": 200, "batch_size": 32, "learning_rate": 3e-3 },
        "depth": null, "rounds": 1, "round": [{ "train": "size", "total_timesteps": 64 }]
    });
    value["depth"]["ppo"] = json!({ "net_arch": { "pi": [64, 64], "vf": [8] } });
    value["size"]["ppo"]["net_arch"] = json!({ "pi": [64, 64], "vf": [8] });
    let run = folder.path().join("run");
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, Interrupt::default());
    assert!(matches!(trainer.expect("a run").learn().expect("it finishes"), Ending::Finished { .. }));
    let policy = |stage: &str| {
        let stage = run.join("stages").join(stage);
        Manifest::load(&stage.join("stage.json")).expect("a manifest").load_policy(&stage).expect("a policy")
    };
    let trace = Trace::read(&folder.path().join("trace")).expect("a trace");
    let [teacher, pupil] = ["01-predictor", "02-imitation"].map(|stage| {
        let mut choices = Choices::of(&policy(stage));
        decide_at_every_position(&trace, &mut choices, &Interrupt::default()).expect("not interrupted");
        choices.made
    });
    let same = teacher.iter().zip(&pupil).filter(|(teacher, pupil)| teacher == pupil).count();
    assert!(same * 10 > teacher.len() * 9, "{same} of {} decisions are the same", teacher.len());
    let distinct: std::collections::BTreeSet<_> = teacher.iter().collect();
    assert!(distinct.len() > 1, "a teacher that always decides alike teaches nothing: {distinct:?}");
    // The next stage went on from there: the depth policy is the imitation's.
    let (Policy::Pair { depth: before, .. }, Policy::Pair { depth: after, .. }) =
        (policy("02-imitation"), policy("03-size"))
    else {
        panic!("pairs")
    };
    assert_eq!(before, after);
}

#[test]
fn a_source_is_learned_where_copies_gain_and_imitated() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = replayed(folder.path());
    record(folder.path(), &value, 8);
    // Drafting is dear.
    write_table(folder.path(), &value, 4.0);
    value["stages"] = json!({
        "size": null, "predictor": { "epochs": 20, "net_arch": [32] },
        "imitation": { "epochs": 200, "batch_size": 32, "learning_rate": 3e-3 },
        "depth": null, "rounds": 0, "round": []
    });
    for kind in ["depth", "size", "source"] {
        value[kind]["ppo"]["net_arch"] = json!({ "pi": [32, 32], "vf": [8] });
    }
    value["source"]["merged"] = json!(8);
    let run = folder.path().join("run");
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, Interrupt::default());
    assert!(matches!(trainer.expect("a run").learn().expect("it finishes"), Ending::Finished { .. }));
    let policy = |stage: &str| {
        let stage = run.join("stages").join(stage);
        Manifest::load(&stage.join("stage.json")).expect("a manifest").load_policy(&stage).expect("a policy")
    };
    let (teacher, pupil) = (policy("01-predictor"), policy("02-imitation"));
    let Policy::Factored(factored) = &teacher else { panic!("a factored policy") };
    assert!(factored.source.is_some(), "copies gain here");
    assert!(matches!(&pupil, Policy::Pair { source: SourceChoice::Learned(_), .. }));
    assert!(teacher.merges() && pupil.merges(), "both have merged trees to choose");

    // Both are shown what the teacher's cycles show it.
    let trace = Trace::read(&folder.path().join("trace")).expect("a trace");
    let table = LatencyTable::read(&folder.path().join("latency.json")).expect("a table");
    let costs = Costs { model: table.model(), decision: table.decision };
    let [teacher, pupil] = [&teacher, &pupil].map(Learned::of_policy);
    let mut both = Both { teacher, pupil, sources: Vec::new() };
    for sequence in trace.sequences() {
        let sequence = sequence.expect("it is read");
        replay_sequence(&trace.header, &sequence, &costs, &mut both, &mut |_| ()).expect("a replay");
    }
    let same = both.sources.iter().filter(|[teacher, pupil]| teacher == pupil).count();
    assert!(same * 10 > both.sources.len() * 8, "{same} of {} sources are the same", both.sources.len());
    let distinct: std::collections::HashSet<_> = both.sources.iter().map(|[teacher, _]| teacher).collect();
    assert!(distinct.len() > 1, "a teacher that always decides alike teaches nothing: {distinct:?}");
}

#[test]
fn a_stage_without_a_tree_to_learn_from_keeps_what_was_learned() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = replayed(folder.path());
    record(folder.path(), &value, 8);
    // A tree is never worth its time.
    write_table(folder.path(), &value, 400.0);
    value["source"]["chains"] = json!([0, 4]);
    value["source"]["ppo"]["advantage"] = json!("exact");
    value["source"]["ppo"]["learning_rate"] = json!(1e-2);
    let depth = json!({ "train": "depth", "total_timesteps": 64 });
    value["stages"] = json!({
        "size": null, "depth": { "total_timesteps": 64 },
        "rounds": 1, "round": [{ "train": "source", "total_timesteps": 4096 }, depth]
    });
    let run = folder.path().join("run");
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, Interrupt::default());
    assert!(matches!(trainer.expect("a run").learn().expect("it finishes"), Ending::Finished { .. }));
    let depth = |stage: &str| std::fs::read(run.join("stages").join(stage).join("depth.safetensors"));
    let (first, last) = (depth("01-depth").expect("a policy"), depth("03-depth").expect("a policy"));
    assert_eq!(first, last, "the source copies in all cycles: there is no depth to learn");
}

/// Cycles of one policy, and what both of two would draft from.
struct Both {
    teacher: Learned,
    pupil: Learned,
    sources: Vec<[DraftSource; 2]>,
}

impl Controller for Both {
    fn size_limit(&self) -> usize {
        self.teacher.size_limit()
    }

    fn begin_cycle(&mut self) {
        self.teacher.begin_cycle();
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        let sources = [self.teacher.source(summary), self.pupil.source(summary)];
        self.sources.push(sources);
        sources[0]
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.teacher.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.teacher.verification_size(summary)
    }
}

/// A policy and its decisions, depth and size.
struct Choices {
    policy: Learned,
    made: Vec<(usize, usize)>,
}

impl Choices {
    fn of(policy: &Policy) -> Self {
        Self { policy: Learned::of_policy(policy), made: Vec::new() }
    }
}

impl Controller for Choices {
    fn begin_cycle(&mut self) {
        self.policy.begin_cycle();
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.policy.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        let size = self.policy.verification_size(summary);
        self.made.push((summary.draft_depth, size));
        size
    }
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
    refuse(&value, "trace has 1 prompt (question 8) of prompts.validation: measure on other prompts");
    // Whatever the file is called and looks like now.
    let questions = std::fs::read_to_string(folder.path().join("questions.jsonl")).expect("questions");
    let copy = folder.path().join("copy.jsonl");
    std::fs::write(&copy, questions.replace("\"question_id\":", "\"category\": \"x\", \"question_id\":1"))
        .expect("written");
    let mut copied = value.clone();
    copied["prompts"]["validation"]["file"] = json!(copy);
    refuse(&copied, "trace has 1 prompt (question 8 (there question 18)) of prompts.validation");
    // Merged trees need what older recordings lack.
    let old = tempfile::tempdir().expect("a folder");
    let mut merging = replayed(old.path());
    record_with(old.path(), &merging, 8, false);
    table(&merging, 64, 0.1).write(&old.path().join("latency.json")).expect("written");
    merging["source"] = json!({ "merged": 8 });
    merging["stages"] = json!({ "predictor": { "epochs": 1 }, "rounds": 0, "round": [] });
    refuse(&merging, "trace: it lacks the tokens of the candidates");
    merging["source"] = json!({ "merged": null });
    drop(Trainer::create(parse(&merging), &old.path().join("run"), Progress::Silent, Interrupt::default()));
    assert!(old.path().join("run/run.json").exists(), "without them it is good");

    // A greedy trace is none of what is drawn.
    let other = tempfile::tempdir().expect("a folder");
    record(other.path(), &value, 8);
    let mut sampled = value;
    sampled["sampling"] = json!({ "temperature": 1.0 });
    sampled["replay"]["trace"] = json!(other.path().join("trace"));
    refuse(&sampled, "trace: its continuations are of sampling greedy, this run asks for temperature 1: ");
    let mut seeds = sampled.clone();
    seeds["sampling"] = json!({});
    seeds["replay"]["seeds"] = json!(2);
    let error = TrainConfig::parse(&seeds.to_string(), Path::new("test.json"), &[]).expect_err("seeds");
    assert!(error.to_string().contains("replay.seeds: is 2, but a prompt has one continuation"), "{error}");
}

#[test]
fn a_run_above_temperature_0_learns_from_recordings_of_several_seeds() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut value = config(folder.path());
    let latency = folder.path().join("latency.json");
    table(&value, 64, 2.0).write(&latency).expect("written");
    value["seed"] = json!(5);
    value["sampling"] = json!({ "temperature": 1.0, "top_p": 0.9 });
    value["reward"] = json!("gain");
    value["replay"] = json!({ "held_out": 0.25, "latency": latency, "seeds": 2 });
    value["stages"]["predictor"] = json!({ "epochs": 2, "net_arch": [16], "batch_size": 64 });
    value["stages"]["size"] = json!({ "total_timesteps": 64, "random_depth": { "min": 0, "max": 4 } });
    value["stages"]["depth"] = json!({ "total_timesteps": 64 });
    value["stages"]["rounds"] = json!(0);
    let run = folder.path().join("run");
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, Interrupt::default());
    let Ending::Finished { summary } = trainer.expect("a run").learn().expect("it finishes") else {
        panic!("interrupted")
    };
    let trace = Trace::read(&run.join("trace")).expect("a trace");
    let keys: Vec<(u32, u64)> = trace.outlines().map(Outline::key).collect();
    assert_eq!(keys, (0..8).flat_map(|prompt| [(prompt, 5), (prompt, 6)]).collect::<Vec<_>>());
    assert_eq!(trace.header.sampling, parse(&value).sampling);
    for stage in ["01-predictor", "02-size", "03-depth"] {
        let manifest = Manifest::load(&run.join("stages").join(stage).join("stage.json"));
        let manifest = manifest.expect("a manifest");
        assert_eq!(manifest.sampling, Some(trace.header.sampling), "{stage}");
        // Two of eight prompts are held out, with both seeds.
        assert_eq!(manifest.expected.map(|expected| expected.prompts), Some(2), "{stage}");
    }
    assert!(summary.contains("Replay of held-out recordings: factored"), "{summary}");

    // The trace serves another run of the same sampling, and no run of another.
    let mut again = value.clone();
    again["replay"]["trace"] = json!(run.join("trace"));
    let trainer = |value: &Value, run: &str| {
        Trainer::create(parse(value), &folder.path().join(run), Progress::Silent, Interrupt::default())
    };
    drop(trainer(&again, "again").expect("a run"));
    for (sampling, name) in [(json!({}), "greedy"), (json!({ "temperature": 0.5 }), "temperature 0.5")] {
        let mut other = again.clone();
        other["sampling"] = sampling;
        other["replay"]["seeds"] = json!(1);
        let error = trainer(&other, "other").err().expect(name);
        let expected = format!(
            "{}: its continuations are of sampling temperature 1, top-p 0.9, this run asks for {name}: ",
            run.join("trace").display()
        );
        assert!(error.is_usage() && error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn a_run_does_not_go_on_with_other_recordings() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = replayed(folder.path());
    record(folder.path(), &value, 6);
    let latency = folder.path().join("latency.json");
    table(&value, 64, 0.1).write(&latency).expect("written");
    let run = folder.path().join("run");
    let stop = Interrupt::default();
    stop.request();
    let trainer = Trainer::create(parse(&value), &run, Progress::Silent, stop);
    let ending = trainer.expect("a run").learn().expect("it is interrupted");
    assert!(matches!(ending, Ending::Interrupted { .. }));
    table(&value, 64, 0.2).write(&latency).expect("written");
    let resumed = Trainer::resume(&run, Progress::Silent, Interrupt::default()).expect("a run").learn();
    let error = resumed.expect_err("another table");
    assert!(error.is_usage() && error.to_string().contains("begun with other recordings"), "{error}");
}
