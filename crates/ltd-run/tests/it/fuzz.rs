//! Mutated configurations are refused or read, as are mutated arguments of `--set`.

use std::path::Path;

use ltd_fuzz::{Form, folder, fuzz};
use ltd_run::TrainConfig;

use crate::tiny::config;

#[global_allocator]
static METER: ltd_fuzz::Meter = ltd_fuzz::Meter;

fn parse(text: &str, overrides: &[String]) {
    if let Ok(config) = TrainConfig::parse(text, Path::new("config.json"), overrides) {
        // What a dry run prints.
        config.plan();
        config.evaluation.grid.settings(config.engine.beam_width);
    }
}

#[test]
fn configurations() {
    let folder = folder();
    let small = config(folder.path());
    let mut replayed = small.clone();
    replayed["reward"] = "gain".into();
    replayed["replay"] = serde_json::json!({ "held_out": 0.3, "max_minutes": 1.5, "noise": true });
    let whole = TrainConfig::parse(&small.to_string(), Path::new("config.json"), &[]).expect("it is valid");
    let whole = serde_json::to_vec(&whole).expect("plain data");
    let seeds = [small.to_string().into_bytes(), replayed.to_string().into_bytes(), whole];
    fuzz(Form::Json, &seeds, |bytes| parse(&String::from_utf8_lossy(bytes), &[]));
}

#[test]
fn overrides() {
    let folder = folder();
    let text = config(folder.path()).to_string();
    let seeds = [
        "size.ppo.learning_rate=3e-4",
        "preset=paper",
        "preset=\"paper\"",
        "stages.round={\"train\": \"size\", \"total_timesteps\": 128}",
        "stages.round.0.total_timesteps=12",
        "evaluation.grid.sizes=[4, 12]",
        "reward=gain",
        "replay.max_minutes=2.5",
        "engine.devices=[\"cpu\", \"cpu\"]",
    ];
    fuzz(Form::Bytes, &seeds.map(|seed| seed.as_bytes().to_vec()), |bytes| {
        parse(&text, &[String::from_utf8_lossy(bytes).into_owned()]);
    });
}
