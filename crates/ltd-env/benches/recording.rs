//! Recording all trees of a text beside running a cycle of full depth at each of its positions, on
//! the default pair.
//!
//! Wall clock, bf16; both take turns on the same prompts, so that what disturbs the machine
//! disturbs both.

use std::path::Path;
use std::time::Instant;

use ltd_engine::text::{TextModel, load_questions};
use ltd_engine::{DtypeSetting, Engine, EngineConfig, fingerprint};
use ltd_env::Interrupt;
use ltd_env::trace::{TRACE_VERSION, TraceHeader, record_sequence};

const PROMPTS: usize = 8;
const NEW_TOKENS: usize = 64;
const BATCHES: [usize; 4] = [1, 4, 8, 16];
const SIZES: [usize; 2] = [60, 240];
/// Cycles are run at every so-manieth position: each takes long.
const EVERY: usize = 8;

#[expect(clippy::print_stdout, reason = "what it measured is all that it does")]
fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("models/smollm2-135m-instruct");
    let config = EngineConfig {
        dtype: DtypeSetting::Bf16,
        ..EngineConfig::new(&target, root.join("assets/eagle3-smollm2-135m"))
    };
    let engine = Engine::load(&config).expect("scripts/setup made the target");
    let text = TextModel::load(&target).expect("a tokenizer");
    let file = root.join("data/humaneval.jsonl");
    let questions = load_questions(&file, 0, Some(PROMPTS)).expect("scripts/setup made the questions");
    let prompts = text.prompts(&questions, &file).expect("prompts");
    let header = TraceHeader {
        version: TRACE_VERSION,
        target: fingerprint(&config.target).expect("a fingerprint"),
        draft: fingerprint(&config.draft).expect("a fingerprint"),
        dtype: "bf16".to_owned(),
        beam_width: engine.beam_width(),
        depth: engine.max_depth(),
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: TraceHeader::bytes_of_token(engine.vocabulary()),
        sampling: ltd_policy::SamplingParams::default(),
        max_new_tokens: NEW_TOKENS,
        capacity: engine.capacity(),
        eos: text.eos().to_vec(),
        questions: file.clone(),
        questions_sha256: String::new(),
    };

    let names = BATCHES.iter().map(|batch| format!("recorded, {batch} trees at a time"));
    let names: Vec<String> = names.chain(SIZES.iter().map(|size| format!("cycle of size {size}"))).collect();
    let mut ms = vec![Vec::new(); names.len()];
    for (number, prompt) in (0..).zip(&prompts) {
        let mut tokens = Vec::new();
        for (batch, ms) in BATCHES.iter().zip(&mut ms) {
            let start = Instant::now();
            let sequence =
                record_sequence(&engine, &header, (number, 0), &prompt.ids, *batch, &Interrupt::default())
                    .expect("a recording");
            ms.push(start.elapsed().as_secs_f64() * 1e3 / sequence.len() as f64);
            tokens = sequence.tokens[..sequence.prompt_len + sequence.len()].to_vec();
        }
        for (&size, ms) in SIZES.iter().zip(&mut ms[BATCHES.len()..]) {
            ms.push(cycles(&engine, &tokens, prompt.ids.len(), size));
        }
    }
    println!("{}, depth {}, per position", text.folder().display(), header.depth);
    for (name, ms) in names.iter().zip(&mut ms) {
        ms.sort_unstable_by(f64::total_cmp);
        let quartile = |part: usize| ms[(ms.len() - 1) * part / 4];
        println!("{name}: {:.1} ms ({:.1} - {:.1})", quartile(2), quartile(1), quartile(3));
    }
}

/// Milliseconds of a cycle of full depth at positions of a text, in the mean.
fn cycles(engine: &Engine, tokens: &[u32], first: usize, size: usize) -> f64 {
    let mut rehearsal = engine.rehearsal(tokens.to_vec()).expect("a rehearsal");
    let contexts: Vec<usize> = (first..tokens.len()).step_by(EVERY).collect();
    let start = Instant::now();
    for &context in &contexts {
        let session = rehearsal.at(engine, context, 1).expect("a context");
        let mut cycle = engine.begin_cycle(session, usize::MAX).expect("a cycle");
        for _ in 0..engine.max_depth() {
            engine.expand(session, &mut cycle).expect("a level");
        }
        engine.verify(session, cycle, size).expect("an outcome");
    }
    start.elapsed().as_secs_f64() * 1e3 / contexts.len() as f64
}
