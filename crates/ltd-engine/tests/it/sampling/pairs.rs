//! Both models together: sampled with trees and sampled plainly.

use std::collections::BTreeMap;

use ltd_engine::{
    Controller, DtypeSetting, Engine, EngineConfig, Sampler, SamplingParams, Static, StopReason, StopRule,
};

use super::SETTINGS;
use super::statistics::Fit;
use crate::fixtures::{default_config, exact_engines, load, tiny_configs};
use crate::lossless::{Erratic, decode};

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| u32::from(byte) + 4).collect()
}

fn sampler(params: SamplingParams, seed: u64) -> Sampler {
    Sampler::new(params, seed).expect("a sampler")
}

const NEVER_ENDS: StopRule = StopRule { max_new_tokens: 30, eos: Vec::new() };

#[test]
fn a_seed_gives_the_same_tokens_plainly_and_with_any_tree() {
    let prompt = bytes("Once upon a time");
    for (pair, engine) in tiny_configs()
        .flat_map(|(pair, config)| exact_engines(&config).into_iter().map(move |engine| (pair, engine)))
    {
        for (params, seed) in SETTINGS.into_iter().zip(1..) {
            let sampler = sampler(params, seed);
            let expected = decode(&engine, &prompt, &sampler, &NEVER_ENDS, None);
            for (depth, size) in [(0, 1), (0, 10), (1, 4), (2, 30), (5, 59), (12, 500)] {
                let mut controller = Static { depth, size };
                let found = decode(&engine, &prompt, &sampler, &NEVER_ENDS, Some(&mut controller));
                let dtype = engine.dtype();
                assert_eq!(found, expected, "{pair}, {dtype}, {params}, depth {depth}, size {size}");
            }
            for number in 0..4 {
                let sampler = sampler.for_sequence(number);
                let expected = decode(&engine, &prompt, &sampler, &NEVER_ENDS, None);
                let found = decode(&engine, &prompt, &sampler, &NEVER_ENDS, Some(&mut Erratic::new(number)));
                assert_eq!(found, expected, "{pair}, {}, {params}, sequence {number}", engine.dtype());
            }
        }
    }
}

#[test]
fn the_default_pair_gives_the_same_tokens_plainly_and_with_trees() {
    // "The capital of France is"
    let prompt = [504, 3575, 282, 4649, 314];
    let stop = StopRule { max_new_tokens: 32, eos: vec![2] };
    for engine in exact_engines(&default_config()) {
        // Where forwards of other widths round differently, the two can part in the long tail of a
        // distribution over 49152 tokens: without it.
        let cut = SamplingParams { temperature: 0.8, top_p: 0.95, top_k: Some(20) };
        let whole = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let settings = if engine.is_batch_invariant() { vec![cut, whole] } else { vec![cut] };
        for (params, seed) in settings.into_iter().flat_map(|params| [(params, 0), (params, 1)]) {
            let sampler = sampler(params, seed);
            let expected = decode(&engine, &prompt, &sampler, &stop, None);
            let mut controller = Static { depth: 4, size: 30 };
            let found = decode(&engine, &prompt, &sampler, &stop, Some(&mut controller));
            assert_eq!(found, expected, "{}, {params}", engine.dtype());
        }
    }
}

#[test]
fn output_depends_on_seed_and_sequence_and_on_nothing_else() {
    for (pair, config) in tiny_configs() {
        assert_depends_on_seed_and_sequence(pair, &load(&config));
    }
}

fn assert_depends_on_seed_and_sequence(pair: &str, engine: &Engine) {
    let prompt = bytes("In the beginning");
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let run = |sampler: &Sampler| {
        decode(engine, &prompt, sampler, &NEVER_ENDS, Some(&mut Static { depth: 3, size: 20 })).0
    };
    let first = run(&sampler(params, 1));
    assert_eq!(run(&sampler(params, 1)), first, "{pair}");
    assert_eq!(run(&sampler(params, 1).for_sequence(0)), first, "{pair}");
    assert_ne!(run(&sampler(params, 2)), first, "{pair}");
    assert_ne!(run(&sampler(params, 1).for_sequence(1)), first, "{pair}");
    // Memory and numbers of another sequence leave no trace, nor does LibTorch's own generator.
    tch::manual_seed(99);
    let used = engine.prefill_sampled(&bytes("To be"), sampler(params, 7), None).expect("prefill");
    let mut answer = engine.generate(&prompt, sampler(params, 1), NEVER_ENDS, Some(used)).expect("prefill");
    while answer.advance(engine, Some(&mut Static { depth: 3, size: 20 })).expect("a cycle").is_some() {}
    assert_eq!(answer.output(), first, "{pair}");
    // At temperature 0 seeds and cuts mean nothing.
    let cold = SamplingParams { temperature: 0.0, top_p: 0.3, top_k: Some(2) };
    let greedy = decode(engine, &prompt, &Sampler::greedy(), &NEVER_ENDS, None).0;
    assert_eq!(run(&sampler(cold, 5)), greedy, "{pair}");
    assert_ne!(first, greedy, "{pair}");
}

#[test]
fn generation_ends_where_plain_sampling_ends() {
    for (pair, config) in tiny_configs() {
        assert_ends_where_plain_sampling_ends(pair, &load(&EngineConfig { max_length: Some(48), ..config }));
    }
}

fn assert_ends_where_plain_sampling_ends(pair: &str, engine: &Engine) {
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let prompt = bytes("It was a dark");
    let tree = |stop: &StopRule, seed: u64| {
        let sampler = sampler(params, seed);
        let expected = decode(engine, &prompt, &sampler, stop, None);
        let found = decode(engine, &prompt, &sampler, stop, Some(&mut Static { depth: 6, size: 40 }));
        assert_eq!(found, expected, "{pair}, seed {seed}, {stop:?}");
        found
    };
    for seed in 0..4 {
        let endless = StopRule { max_new_tokens: 1000, eos: Vec::new() };
        let (answer, reason) = tree(&endless, seed);
        // The cache's free positions, and one token after the last of them.
        assert_eq!((answer.len(), reason), (48 - prompt.len() + 1, StopReason::CacheFull));
        for max_new_tokens in [1, 2, 7, 20] {
            let (short, reason) = tree(&StopRule { max_new_tokens, eos: Vec::new() }, seed);
            assert_eq!((&short[..], reason), (&answer[..max_new_tokens], StopReason::MaxNewTokens));
        }
        for &token in answer.iter().step_by(3) {
            let (short, reason) = tree(&StopRule { max_new_tokens: 1000, eos: vec![token] }, seed);
            assert_eq!(reason, StopReason::EndOfSequence);
            assert_eq!(short.iter().position(|&id| id == token), Some(short.len() - 1));
            assert_eq!(short, answer[..short.len()]);
        }
    }
}

/// The first new tokens of many sequences, as counts of what the second and third are (the first
/// comes from the prompt's forward, which both ways share).
fn sample(
    engine: &Engine,
    prompt: &[u32],
    sampler: &Sampler,
    count: u64,
    mut controller: Option<&mut dyn Controller>,
) -> [BTreeMap<u32, f64>; 2] {
    const STOP: StopRule = StopRule { max_new_tokens: 3, eos: Vec::new() };
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    let mut recycled = None;
    for number in 0..count {
        let sampler = sampler.for_sequence(number);
        let mut answer = engine.generate(prompt, sampler, STOP, recycled.take()).expect("prefill");
        while answer.advance(engine, controller.as_deref_mut()).expect("a step").is_some() {}
        for (counts, &token) in counts.iter_mut().zip(&answer.output()[1..]) {
            *counts.entry(token).or_insert(0.0) += 1.0;
        }
        recycled = Some(answer.into_session());
    }
    counts
}

/// Whether two samples of the same size have one distribution at each place.
fn fit(first: &[BTreeMap<u32, f64>; 2], second: &[BTreeMap<u32, f64>; 2]) -> [Fit; 2] {
    [0, 1].map(|place| {
        let tokens: std::collections::BTreeSet<u32> =
            first[place].keys().chain(second[place].keys()).copied().collect();
        let counts = |sample: &BTreeMap<u32, f64>| -> Vec<f64> {
            tokens.iter().map(|token| sample.get(token).copied().unwrap_or(0.0)).collect()
        };
        Fit::of_two(&counts(&first[place]), &counts(&second[place]))
    })
}

fn assert_alike(
    pair: &str,
    engine: &Engine,
    prompt: &[u32],
    params: SamplingParams,
    count: u64,
    tree: Static,
) {
    let plain = sample(engine, prompt, &sampler(params, 1), count, None);
    // Another seed: the same one would give the same tokens, and no test.
    let trees = sample(engine, prompt, &sampler(params, 2), count, Some(&mut { tree }));
    assert_ne!(plain, trees, "{pair}");
    for fit in fit(&plain, &trees) {
        assert!(fit.is_good(), "{pair}, {params}: {fit:?}, z = {:.2}", fit.z());
    }
}

#[test]
fn tokens_of_the_tiny_pairs_have_one_distribution_plainly_and_with_trees() {
    for (pair, config) in tiny_configs() {
        assert_one_distribution(pair, &load(&config));
    }
}

fn assert_one_distribution(pair: &str, engine: &Engine) {
    const COUNT: u64 = 400;
    let prompt = bytes("The cat ");
    for params in [
        SamplingParams { temperature: 1.0, ..SamplingParams::default() },
        SamplingParams { temperature: 1.0, top_p: 0.9, top_k: Some(12) },
    ] {
        assert_alike(pair, engine, &prompt, params, COUNT, Static { depth: 2, size: 16 });
    }
    // The test tells a temperature of 1 from one of 0.8.
    let at = |temperature: f64, seed: u64| {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        sample(engine, &prompt, &sampler(params, seed), COUNT, None)
    };
    assert!(fit(&at(1.0, 1), &at(0.8, 3)).iter().any(|fit| !fit.is_good()), "{pair}");
}

#[test]
fn tokens_of_the_default_pair_have_one_distribution_plainly_and_with_trees() {
    // In f32, whose rounding does not decide which tokens are drawn: the same on all machines.
    let config = EngineConfig { dtype: DtypeSetting::F32, max_length: Some(64), ..default_config() };
    let engine = load(&config);
    // "Once upon a time"
    let prompt = [6403, 1980, 253, 655];
    for params in [
        SamplingParams { temperature: 1.0, ..SamplingParams::default() },
        SamplingParams { temperature: 1.0, top_p: 0.9, top_k: Some(40) },
    ] {
        assert_alike("the default pair", &engine, &prompt, params, 100, Static { depth: 1, size: 8 });
    }
}
