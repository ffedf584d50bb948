//! Where the time of a cycle goes on the default pair: model forwards, and everything else.
//!
//!     cargo bench -p ltd-engine --bench cycle

use std::path::Path;

use ltd_engine::text::{TextModel, load_questions};
use ltd_engine::{CycleTiming, Engine, EngineConfig, Static, StopRule};

const SETTINGS: [Static; 4] = [
    Static { depth: 1, size: 4 },
    Static { depth: 1, size: 12 },
    Static { depth: 3, size: 24 },
    Static { depth: 7, size: 59 },
];
const PROMPTS: usize = 6;
const MAX_NEW_TOKENS: usize = 64;

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = workspace.join("models/smollm2-135m-instruct");
    let config = EngineConfig::new(&target, workspace.join("assets/eagle3-smollm2-135m"));
    let text = TextModel::load(&target).expect("scripts/setup was run");
    let mut engine = Engine::load(&config).expect("the default pair loads");
    engine.profile_forwards();
    let file = workspace.join("data/humaneval.jsonl");
    let questions = load_questions(&file, 0, Some(PROMPTS)).expect("scripts/setup was run");
    let prompts = text.prompts(&questions, &file).expect("prompts");
    let stop = StopRule { max_new_tokens: MAX_NEW_TOKENS, eos: text.eos().to_vec() };

    let mut timings: Vec<Vec<CycleTiming>> = vec![Vec::new(); SETTINGS.len()];
    for prompt in &prompts {
        for (setting, timings) in SETTINGS.iter().zip(&mut timings) {
            let mut session = engine.prefill(&prompt.ids, None).expect("prefill");
            while stop.reached(&session, prompt.ids.len()).is_none() {
                let outcome = engine.run_cycle(&mut session, &mut { *setting }).expect("a cycle");
                timings.push(outcome.timing);
            }
        }
    }
    println!(
        "default pair, {}, {} threads, {PROMPTS} prompts, interleaved",
        engine.dtype(),
        tch::get_num_threads()
    );
    println!("| depth, size | cycles | cycle ms (quartiles) | outside forwards, ms | share |");
    println!("| --- | --- | --- | --- | --- |");
    for (setting, timings) in SETTINGS.iter().zip(&timings) {
        let [low, median, high] = quartiles(timings, |timing| timing.total().as_secs_f64() * 1e3);
        let outside =
            |timing: &CycleTiming| timing.total().saturating_sub(timing.forwards).as_secs_f64() * 1e3;
        let [_, outside_ms, _] = quartiles(timings, outside);
        let total: f64 = timings.iter().map(|timing| timing.total().as_secs_f64() * 1e3).sum();
        let share = 100.0 * timings.iter().map(outside).sum::<f64>() / total;
        let Static { depth, size } = setting;
        println!(
            "| {depth}, {size} | {} | {median:.1} ({low:.1} - {high:.1}) | {outside_ms:.2} | {share:.1} % |",
            timings.len()
        );
    }
}

fn quartiles(timings: &[CycleTiming], value: impl Fn(&CycleTiming) -> f64) -> [f64; 3] {
    let mut values: Vec<f64> = timings.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
