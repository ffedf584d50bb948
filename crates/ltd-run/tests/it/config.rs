//! A configuration is right, or all that is wrong with it is said at once.

use std::path::{Path, PathBuf};

use ltd_engine::SamplingParams;
use ltd_policy::PolicyKind;
use ltd_run::TrainConfig;
use ltd_run::config::{Counterpart, Preset};
use serde_json::{Value, json};

use crate::tiny::{config, questions};

fn parse(value: &Value, overrides: &[&str]) -> Result<TrainConfig, String> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    TrainConfig::parse(&value.to_string(), Path::new("test.json"), &overrides)
        .map_err(|error| error.to_string())
}

/// The lines of the message after the file's name.
fn problems(value: &Value, overrides: &[&str]) -> Vec<String> {
    let message = parse(value, overrides).expect_err("problems");
    let mut lines = message.lines();
    assert_eq!(lines.next(), Some("test.json:"));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn what_the_file_leaves_out_comes_from_the_preset() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = config(folder.path());
    let quick = parse(&base, &[]).expect("a configuration");
    assert_eq!((quick.preset, quick.size.ppo.clone()), (Preset::Quick, Preset::Quick.ppo(PolicyKind::Size)));

    let mut paper = json!({ "preset": "paper", "stages": { "depth": { "verification_size": 50 } } });
    for key in ["engine", "prompts"] {
        paper[key] = base[key].clone();
    }
    paper["engine"]["max_depth"] = json!(12);
    let paper = parse(&paper, &["size.ppo.learning_rate=5e-4", "reward=gain"]).expect("a configuration");
    let stages = &paper.stages;
    let (size, depth) = (stages.size.as_ref().expect("a stage"), stages.depth.as_ref().expect("a stage"));
    assert_eq!(
        (size.total_timesteps, depth.total_timesteps, depth.verification_size),
        (100_000, 1_000_000, 50)
    );
    assert_eq!(paper.size.sizes.sizes, (1..=12).map(|step| step * 20).collect::<Vec<_>>());
    assert_eq!((paper.size.ppo.n_steps, paper.size.ppo.learning_rate), (2048, 5e-4));
    assert_eq!((paper.size.ppo.gamma, paper.depth.ppo.gamma), (0.9, 0.999));
    assert_eq!(
        (paper.depth.ppo.net_arch.pi.as_slice(), paper.depth.ppo.net_arch.vf.as_slice()),
        (&[1024][..], &[1024, 256][..])
    );
    let kinds: Vec<_> = paper.plan().into_iter().map(|stage| stage.name).collect();
    assert_eq!(kinds, ["01-size", "02-depth", "03-size", "04-depth", "05-size"]);
    assert_eq!(paper.plan()[1].policy().map(|task| task.counterpart), Some(Counterpart::FixedSize(50)));
    for (config, names) in
        [(&quick, ["compact-depth", "compact-size"]), (&paper, ["reference-depth", "reference-size"])]
    {
        let layouts = [PolicyKind::Depth, PolicyKind::Size].map(|kind| config.layout(kind));
        assert_eq!(layouts.clone().map(|layout| layout.name), names);
        assert!(layouts.iter().all(|layout| layout.depth_cap == config.engine.max_depth));
    }
}

#[test]
fn an_override_reaches_every_value_of_the_preset_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = config(folder.path());
    base["stages"].as_object_mut().expect("an object").remove("round");
    let overrides =
        ["stages.round.1.total_timesteps=77", "stages.round.1.max_minutes=0.5", "engine.threads=1", "seed=9"];
    let found = parse(&base, &overrides).expect("a configuration");
    assert_eq!(
        (found.stages.round[1].total_timesteps, found.stages.round[1].max_minutes.map(f64::from)),
        (77, Some(0.5))
    );
    assert_eq!((found.engine.threads, found.seed), (Some(1), 9));
    assert!(found.sampling.is_greedy());
    let found = parse(&base, &["sampling.temperature=0.7", "sampling.top_k=40"]).expect("a configuration");
    let expected = SamplingParams { temperature: 0.7, top_p: 1.0, top_k: Some(40) };
    assert_eq!(found.sampling, expected);
    let paper = parse(&base, &["preset=paper", "engine.max_depth=12"]).expect("a configuration");
    assert_eq!((paper.preset, paper.stages.round.len()), (Preset::Paper, 3));
    let error = problems(&base, &["stages.round.9.train=size"]);
    assert!(error[0].contains("`9` is not an index into a list of 2"), "{error:?}");
}

#[test]
fn a_preset_is_one_whatever_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = config(folder.path());
    base["engine"]["max_depth"] = json!(12);
    base.as_object_mut().expect("an object").remove("preset");
    let named = json!({ "preset": "paper" });
    let mut written = base.clone();
    written["preset"] = named["preset"].clone();
    let expected = parse(&written, &["seed=3"]).expect("a configuration");
    assert_eq!(expected.size.ppo, Preset::Paper.ppo(PolicyKind::Size));
    for overrides in [
        &["preset=paper", "seed=3"][..],
        &["preset=\"paper\"", "seed=3"],
        &["preset= \"paper\" ", "seed=3"],
        // The order among other values does not matter, and of two the last one counts.
        &["seed=3", "preset=paper"],
        &["preset=official", "seed=3", "preset=paper"],
    ] {
        assert_eq!(parse(&base, overrides).as_ref(), Ok(&expected), "{overrides:?}");
    }
    for (value, problem) in [
        ("preset=papers", "preset: unknown variant `papers`"),
        ("preset=3", "preset: "),
        ("preset=null", "preset: "),
        ("preset=", "preset: unknown variant ``"),
        ("preset.x=paper", "preset: "),
        ("preset", "--set preset: expected path=value"),
        ("preset=\"paper", "--set preset=\"paper: begins as JSON, but is not: EOF"),
    ] {
        let found = problems(&base, &[value]);
        assert!(found[0].starts_with(problem), "{value}: {found:?}");
    }
    for value in [json!(3), json!(null), json!(["paper"])] {
        written["preset"] = value;
        let found = problems(&written, &[]);
        assert!(found[0].starts_with("preset: "), "{found:?}");
    }
}

#[test]
fn a_value_is_json_or_text_and_never_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = config(folder.path());
    let same = parse(&base, &["engine.dtype=f32", "about=as is", "seed=5"]).expect("a configuration");
    let quoted = ["engine.dtype=\"f32\"", "about=\"as is\"", "seed= 5 "];
    assert_eq!(parse(&base, &quoted).as_ref(), Ok(&same));
    let nested = parse(&base, &["replay.held_out=0.25", "replay.noise=true"]).expect("a configuration");
    assert_eq!(nested.replay.map(|replay| (replay.held_out, replay.noise)), Some((0.25, true)));
    for (value, problem) in [
        ("seed=\"5\"", "seed: is \"5\", expected a whole number"),
        ("seed=", "seed: is \"\", expected a whole number"),
        ("seed=NaN", "seed: is \"NaN\", expected a whole number"),
        ("seed={\"x\":1", "--set seed={\"x\":1: begins as JSON, but is not: EOF"),
        (
            "replay={\"noise\":true,\"noise\":false}",
            "--set replay={\"noise\":true,\"noise\":false}: key `noise` is",
        ),
        ("replay.held_out=", "replay.held_out: is \"\", expected a number"),
        ("engine.threads.x=1", "engine.threads: is an object, expected a whole number"),
    ] {
        let found = problems(&base, &[value]);
        assert!(found[0].starts_with(problem), "{value}: {found:?}");
    }
    // Of two values of one key, neither is taken for granted.
    let twice = base.to_string().replacen("\"max_length\"", "\"max_depth\":3,\"max_length\"", 1);
    let error = TrainConfig::parse(&twice, Path::new("test.json"), &[]).expect_err("a key twice").to_string();
    assert!(error.contains("(file): key `max_depth` is there twice at line 1 column"), "{error}");
}

#[test]
fn a_written_configuration_is_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = parse(&config(folder.path()), &[]).expect("a configuration");
    let second = parse(&serde_json::to_value(&first).expect("plain data"), &[]).expect("a configuration");
    assert_eq!(first, second);
}

#[test]
fn every_problem_is_reported_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut broken = config(folder.path());
    broken["sede"] = json!(1);
    broken["engine"]["beam_width"] = json!("ten");
    broken["engine"]["dtype"] = json!("int8");
    broken["engine"].as_object_mut().expect("an object").remove("draft");
    broken["prompts"]["train"]["skipp"] = json!(1);
    broken["prompts"]["validation"]["file"] = json!("nowhere.jsonl");
    broken["max_new_tokens"] = json!(0);
    broken["sampling"] = json!({ "temperature": -1, "top_p": 1.5, "top_k": 0, "top_a": 1 });
    broken["reward"] = json!("speed");
    broken["depth"] = json!({ "layout": "compacted", "actions": { "min_depth": 9, "max_depth": 3, "decide_every": 0 }, "ppo": { "clip_range": -0.1, "advantage": "exact" } });
    broken["size"] =
        json!({ "sizes": [8, 4], "ppo": { "batch_size": 48, "gamma": 1.5, "net_arch": { "pi": [0] } } });
    broken["stages"]["size"]["random_depth"] = json!({ "min": 3, "max": 99 });
    broken["stages"]["imitation"] = json!({ "epochs": 0 });
    broken["stages"]["round"] = json!([{ "train": "width", "total_timesteps": 5 }, { "train": "size" }]);
    broken["evaluation"]["grid"]["depths"] = json!([]);
    let found = problems(&broken, &["depth.ppo.n_steps=1", "seed.x=3", "nonsense"]);
    for expected in [
        "--set seed.x=3: `x` cannot be set inside a number",
        "--set nonsense: expected path=value",
        "sede: unknown key, expected one of `about`, `preset`, `seed`",
        "engine.beam_width: is \"ten\", expected a whole number",
        "engine.dtype: unknown variant `int8`, expected one of `auto`, `f32`, `bf16`, `f16`",
        "engine.draft: is missing, and has no default",
        "prompts.train.skipp: unknown key, expected one of `file`, `skip`, `take`",
        "prompts.validation: nowhere.jsonl: No such file",
        "max_new_tokens: is 0, must be within 1..=4294967295",
        "sampling.top_a: unknown key, expected one of `temperature`, `top_p`, `top_k`",
        "sampling.temperature: is -1.0, must be 0 (greedy) or within 0.001..=1000",
        "sampling.top_p: is 1.5, must be above 0 and at most 1",
        "sampling.top_k: is 0, must be within 1..=2147483647",
        "reward: unknown variant `speed`, expected one of `throughput`, `acceptance`, `time`, `gain`",
        "depth.actions.min_depth: is 9, must be below max_depth = 3",
        "depth.actions.decide_every: must be at least 1",
        "depth.layout: is `compacted`, expected one of `reference`, `compact`",
        "depth.ppo.advantage: exact needs replay: outcomes of live cycles are not known in advance",
        "depth.ppo.clip_range: is -0.1, must be within 1e-12..=1000000.0",
        "depth.ppo.n_steps: is 1, must be within 2..=1048576",
        "size.sizes: is [8, 4], must be strictly ascending",
        "size.ppo.batch_size: is 48, which does not divide n_steps = 128",
        "size.ppo.gamma: is 1.5, must be within 0.0..=1.0",
        "size.ppo.net_arch.pi: has a width of 0, must be within 1..=16384",
        "stages.size.random_depth.max: is 99, must be at most engine.max_depth = 6",
        "stages.imitation: imitates the factored policy: set stages.predictor, or null",
        "stages.imitation.epochs: is 0, must be within 1..=10000",
        "stages.round[0].train: unknown variant `width`, expected one of `depth`, `size`, `source`",
        "stages.round[1].total_timesteps: is missing, and has no default",
        "evaluation.grid.depths: is empty",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected}\nnot in\n{}",
            found.join("\n")
        );
    }
    // Nothing that merely follows from another problem.
    assert!(
        !found.iter().any(|line| line.starts_with("engine.draft: `` is not a model folder")),
        "{found:?}"
    );
}

#[test]
fn questions_that_are_not_there_or_not_readable_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut few = config(folder.path());
    few["prompts"]["evaluation"]["take"] = json!(100);
    assert!(problems(&few, &[])[0].contains("too few for 100"), "{:?}", problems(&few, &[]));
    let file = questions(folder.path());
    std::fs::write(&file, "{\"token_ids\": [5, 6]}\n{\"turns\": 3}\n").expect("written");
    assert!(problems(&few, &[])[0].contains("questions.jsonl:2: invalid type"));
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    for (text, message) in
        [("{", "(file): not JSON: EOF"), ("[]", "(file): expected a JSON object, found a list")]
    {
        let error = TrainConfig::parse(text, Path::new("test.json"), &[]).expect_err("no configuration");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.is_usage());
    }
    let error = TrainConfig::load(&PathBuf::from("missing.json"), &[]).expect_err("no file");
    assert!(error.to_string().starts_with("missing.json: No such file") && error.is_usage(), "{error}");
}

#[test]
fn every_committed_configuration_is_sound() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for entry in std::fs::read_dir(workspace.join("configs")).expect("the folder") {
        let path = entry.expect("an entry").path();
        // Paths in them are relative to the workspace.
        let text = std::fs::read_to_string(&path).expect("a file");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        let absolute = |place: &mut Value| *place = json!(workspace.join(place.as_str().expect("a path")));
        // Models that are not shipped: their published config.json stands for them.
        let name = path.file_stem().expect("a name").to_owned();
        let published = workspace.join("tests/fixtures/families/configs").join(name);
        for key in ["target", "draft"] {
            absolute(&mut value["engine"][key]);
            if published.is_dir() {
                value["engine"][key] = json!(published.join(key));
            }
        }
        for set in ["train", "validation", "evaluation"] {
            absolute(&mut value["prompts"][set]["file"]);
        }
        parse(&value, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// All paths of numbers, and of nothing where a number could be.
fn numeric_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(entries) => {
            entries.iter().for_each(|(key, value)| numeric_paths(value, &below(key), paths));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| numeric_paths(value, &below(&index.to_string()), paths));
        }
        Value::Number(_) | Value::Null => paths.push(path.to_owned()),
        Value::Bool(_) | Value::String(_) => {}
    }
}

#[test]
fn no_number_is_too_much_for_a_plan() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = config(folder.path());
    base["replay"] = json!({});
    base["stages"]["predictor"] = json!({});
    base["stages"]["imitation"] = json!({});
    let base = serde_json::to_value(parse(&base, &[]).expect("a configuration")).expect("plain data");
    let mut paths = Vec::new();
    numeric_paths(&base, "", &mut paths);
    assert!(paths.len() > 80, "{paths:?}");
    let numbers =
        ["0", "-1", "0.5", "1e-300", "1e300", "9223372036854775808", "18446744073709551615", "NaN", "1e999"];
    for (path, number) in paths.iter().flat_map(|path| numbers.map(|number| (path, number))) {
        let set = format!("{path}={number}");
        match parse(&base, &[&set]) {
            Ok(config) => {
                config.plan();
                config.evaluation.grid.settings(config.engine.beam_width);
            }
            Err(message) => {
                let lines: Vec<&str> = message.lines().collect();
                let key = path.split('.').next().expect("a key");
                // What the number is, and what it may be; some make others impossible.
                assert!(lines.len() > 1 && lines.iter().all(|line| line.len() < 500), "{set}: {message}");
                assert!(lines.iter().any(|line| line.contains(key)), "{set}: {message}");
            }
        }
    }
    for (set, problem) in [
        (
            "stages.rounds=10000000",
            "stages.rounds: is 10000000, with 2 stages each; must be at most 1000 stages together",
        ),
        (
            "stages.size.max_minutes=1e300",
            "stages.size.max_minutes: is 1e300 minutes, must be within 1e-6..=1000000.0",
        ),
        ("evaluation.max_minutes=0", "evaluation.max_minutes: is 0.0 minutes, must be within"),
        ("size.ppo.learning_rate=1e300", "size.ppo.learning_rate: is 1e300, must be within 1e-12..=1.0"),
        ("size.ppo.n_steps=9223372036854775808", "size.ppo.n_steps: is 9223372036854775808, must be within"),
        (
            "depth.ppo.net_arch.vf=[8,9223372036854775808]",
            "depth.ppo.net_arch.vf: has a width of 9223372036854775808",
        ),
        (
            "depth.ppo.net_arch.pi=[8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8]",
            "depth.ppo.net_arch.pi: has 16 layers, must have at most 15",
        ),
        ("size.sizes=[4,9223372036854775808]", "size.sizes: has 9223372036854775808, must be at most 4096"),
        ("evaluation.grid.sizes=[5000]", "evaluation.grid.sizes: is 5000, must be within 1..=4096"),
        ("engine.max_length=1e9", "engine.max_length: is 1000000000.0, expected a whole number"),
        ("engine.max_length=1000000000", "engine.max_length: is 1000000000, must be within 2..=16777216"),
        ("sampling.top_k=9223372036854775808", "sampling.top_k: is 9223372036854775808, must be within"),
    ] {
        let found = problems(&base, &[set]);
        assert!(found.iter().any(|line| line.starts_with(problem)), "{set}: {found:?}");
    }
    let many: Vec<usize> = (1..=1001).collect();
    let found = problems(&base, &[&format!("evaluation.grid.sizes={many:?}")]);
    assert!(found[0].starts_with("evaluation.grid: has 2002 pairs of depth and size"), "{found:?}");
}
