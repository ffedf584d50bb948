//! The environments over real cycles of the tiny pair.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ltd_engine::{DtypeSetting, Engine, EngineConfig, Sampler, SamplingParams, Static, StopRule};
use ltd_env::{Decision, DepthEnv, Env, LiveCycles, PromptStream, RandomDepth, Reward, RewardMeter, SizeEnv};
use ltd_policy::{DepthActions, ObservationLayout, SizeActions};

pub(crate) fn engine() -> Rc<Engine> {
    let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair");
    let config = EngineConfig::new(pair.join("target"), pair.join("draft"));
    Rc::new(Engine::load(&EngineConfig { dtype: DtypeSetting::F32, ..config }).expect("the engine loads"))
}

pub(crate) fn prompts() -> Vec<Vec<u32>> {
    ["The cat sat", "Once upon a time", "In the beginning"]
        .iter()
        .map(|text| text.bytes().map(|byte| u32::from(byte) + 4).collect())
        .collect()
}

fn sampled() -> Sampler {
    let params = SamplingParams { temperature: 1.0, top_p: 0.95, top_k: None };
    Sampler::new(params, 4).expect("a sampler")
}

pub(crate) fn cycles(engine: &Rc<Engine>, sampler: &Sampler) -> LiveCycles {
    let stop = StopRule { max_new_tokens: 24, eos: vec![2] };
    LiveCycles::new(Rc::clone(engine), PromptStream::new(prompts(), 1), stop, sampler.clone())
}

fn size_env(engine: &Rc<Engine>, sampler: &Sampler) -> SizeEnv<LiveCycles> {
    let counterpart = Box::new(RandomDepth::new(0..=12, 60, 9));
    let actions = SizeActions { sizes: vec![4, 16, 60] };
    let layout = ObservationLayout::reference_size(10, 12);
    SizeEnv::new(cycles(engine, sampler), counterpart, actions, layout, RewardMeter::new(Reward::Throughput))
}

pub(crate) fn choose(step: usize, count: usize) -> Decision {
    Decision { action: (step * 7 + step / 3) % count, elapsed: Duration::from_micros(5) }
}

#[test]
fn whatever_is_chosen_the_text_is_the_targets_own() {
    let engine = engine();
    for sampler in [Sampler::greedy(), sampled()] {
        assert_targets_own(&engine, &sampler);
    }
}

fn assert_targets_own(engine: &Rc<Engine>, sampler: &Sampler) {
    let stop = StopRule { max_new_tokens: 24, eos: vec![2] };
    let mut expected = std::collections::BTreeSet::new();
    // Two epochs over three prompts: each sequence has a number, and each prompt may be any of
    // them.
    for (prompt, number) in prompts().iter().flat_map(|prompt| (1..=6).map(move |number| (prompt, number))) {
        let mut answer =
            engine.generate(prompt, sampler.for_sequence(number), stop.clone(), None).expect("prefill");
        while answer.advance(engine, None).expect("step").is_some() {}
        expected.insert(answer.output());
    }
    let actions = DepthActions { min_depth: 0, max_depth: 12, decide_every: 1 };
    let layout = ObservationLayout::reference_depth(10, 12);
    let counterpart = Box::new(Static { depth: 0, size: 20 });
    let meter = RewardMeter::new(Reward::Gain);
    let mut env = DepthEnv::new(cycles(engine, sampler), counterpart, actions, layout, meter);
    let mut observation = vec![0.0; env.observation_len()];
    let mut answer: Vec<u32> = Vec::new();
    let mut answers = 0;
    let mut distinct = std::collections::BTreeSet::new();
    env.reset(&mut observation).expect("reset");
    for step in 0.. {
        let Some(outcome) = env.step(choose(step, 2), &mut observation).expect("step").outcome else {
            continue;
        };
        assert!(outcome.timing.policy >= Duration::from_micros(5) && outcome.timing.draft > Duration::ZERO);
        answer.extend(&outcome.accepted_ids);
        if answer.len() >= 24 || answer.contains(&2) || outcome.next_token == 2 {
            answer.push(outcome.next_token);
            answer.truncate(24);
            if let Some(end) = answer.iter().position(|token| *token == 2) {
                answer.truncate(end + 1);
            }
            assert!(expected.contains(&answer), "{answer:?}");
            distinct.insert(std::mem::take(&mut answer));
            answers += 1;
            if answers == 6 {
                break;
            }
        }
        env.reset(&mut observation).expect("reset");
    }
    // Sampled, a prompt that comes again is continued differently.
    assert_eq!(distinct.len(), if sampler.params().is_greedy() { 3 } else { 6 });
}

#[test]
fn a_restored_live_environment_sees_what_the_first_one_sees() {
    let engine = engine();
    for sampler in [Sampler::greedy(), sampled()] {
        assert_restored_alike(&engine, &sampler);
    }
}

fn assert_restored_alike(engine: &Rc<Engine>, sampler: &Sampler) {
    let mut env = size_env(engine, sampler);
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    for step in 0..17 {
        env.step(choose(step, 3), &mut observation).expect("step");
        env.reset(&mut observation).expect("reset");
    }
    let mut restored = size_env(engine, sampler);
    let mut shown = vec![0.0; restored.observation_len()];
    restored.restore(env.state(), &mut shown).expect("restored");
    for step in 0..25 {
        assert_eq!(shown, observation, "step {step}");
        let expected = env.step(choose(step, 3), &mut observation).expect("step").outcome.expect("outcome");
        let found = restored.step(choose(step, 3), &mut shown).expect("step").outcome.expect("outcome");
        assert_eq!((&found.accepted_ids, found.next_token), (&expected.accepted_ids, expected.next_token));
        assert_eq!(found.draft_depth, expected.draft_depth);
        env.reset(&mut observation).expect("reset");
        restored.reset(&mut shown).expect("reset");
    }
}

#[test]
fn live_cycles_tell_nothing_in_advance() {
    let mut env = size_env(&engine(), &Sampler::greedy());
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    assert_eq!(env.action_values(&mut |_| vec![1.0; 3], 1.0).expect("an answer"), None);
}
