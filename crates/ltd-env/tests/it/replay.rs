//! Recorded cycles are the live ones.

use std::rc::Rc;
use std::sync::Arc;

use ltd_engine::{Controller, DtypeSetting, Engine, Glimpse, Looks, Sampler, Static, StopRule};
use ltd_env::Interrupt;
use ltd_env::latency::{LatencyPlan, held_out_error, measure};
use ltd_env::oracle::replay_sequence;
use ltd_env::trace::{Trace, TraceHeader};
use ltd_env::{
    Costs, Decision, DepthEnv, Env, LiveCycles, PromptStream, ReplayCycles, Reward, RewardMeter, Scatter,
    SizeEnv, SourceEnv,
};
use ltd_policy::{
    Calibration, CycleSummary, DecisionCost, DepthActions, GridPoint, LatencyIdentity, LatencyTable, Merged,
    ObservationLayout, PolicyKind, SizeActions, SourceActions, Surface,
};

use crate::live::{choose, cycles, engine, prompts};
use crate::trace::{header, record, record_as, whole};

pub(crate) const DEPTH: usize = 12;

/// A machine of our own: what matters here is that its times differ.
fn table() -> LatencyTable {
    let contexts = [8, 400];
    let table = LatencyTable {
        root: Surface::from_fn(&[1, 13], &contexts, |rows, context| 1.0 + 0.1 * rows + 0.001 * context),
        level: Surface::from_fn(&[1, 12], &contexts, |_, context| 1.0 + 0.001 * context),
        level_rows: Some(Surface::from_fn(&[1, 10], &contexts, |rows, _| 0.5 + 0.05 * rows)),
        verify: Surface::from_fn(&[1, 40, 240], &contexts, |size, context| 9.0 + 0.1 * size + 0.01 * context),
        decision: DecisionCost { depth_us: 10.0, size_us: 20.0 },
        ..empty_table()
    };
    assert!(table.problems().is_empty(), "{:?}", table.problems());
    table
}

pub(crate) fn costs() -> Costs {
    let table = table();
    Costs { model: table.model(), decision: table.decision }
}

/// A table without times.
fn empty_table() -> LatencyTable {
    LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity { beam_width: 10, ..LatencyIdentity::default() },
        root: Surface::default(),
        level: Surface::default(),
        level_rows: None,
        verify: Surface::default(),
        decision: DecisionCost::default(),
        held_out_error: None,
    }
}

pub(crate) fn replayed(trace: &Trace) -> ReplayCycles {
    ReplayCycles::new(Arc::new(trace.clone()), costs(), 1).expect("positions")
}

/// Drives two environments with the same actions: the same cycles must come, and the same be seen.
pub(crate) fn compare(live: &mut dyn Env, replay: &mut dyn Env, actions: usize, steps: usize) {
    let mut seen = [vec![0.0; live.observation_len()], vec![0.0; replay.observation_len()]];
    live.reset(&mut seen[0]).expect("reset");
    replay.reset(&mut seen[1]).expect("reset");
    for number in 0..steps {
        for (live, replay) in seen[0].iter().zip(&seen[1]) {
            // Scores are recorded in half precision.
            assert!((live - replay).abs() <= 2e-3 + 1e-3 * live.abs(), "{live} {replay}");
        }
        let decision = choose(number, actions);
        let [live_step, replay_step] =
            [live.step(decision, &mut seen[0]), replay.step(decision, &mut seen[1])]
                .map(|step| step.expect("step"));
        assert_eq!(live_step.terminated, replay_step.terminated);
        if let (Some(live), Some(replay)) = (live_step.outcome, replay_step.outcome) {
            let parts = |outcome: &ltd_engine::CycleOutcome| {
                (
                    outcome.source,
                    outcome.match_length,
                    outcome.accepted_ids.clone(),
                    outcome.next_token,
                    outcome.draft_depth,
                    outcome.verification_size,
                )
            };
            assert_eq!(parts(&live), parts(&replay));
            assert_eq!(live.context_length, replay.context_length);
        }
        if live_step.terminated {
            live.reset(&mut seen[0]).expect("reset");
            replay.reset(&mut seen[1]).expect("reset");
        }
    }
}

#[test]
fn the_same_actions_meet_the_same_cycles() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let actions = DepthActions { min_depth: 0, max_depth: DEPTH, decide_every: 1 };
    let layout = ObservationLayout::reference_depth(10, DEPTH);
    let meter = || RewardMeter::new(Reward::Gain);
    let static_size = || Box::new(Static { depth: 0, size: 20 });
    let mut live =
        DepthEnv::new(cycles(&engine, &Sampler::greedy()), static_size(), actions, layout.clone(), meter());
    let mut replay = DepthEnv::new(replayed(&trace), static_size(), actions, layout, meter());
    compare(&mut live, &mut replay, 2, 300);

    let sizes = SizeActions { sizes: vec![1, 4, 16, 60, 240] };
    let layout = ObservationLayout::reference_size(10, DEPTH);
    for depth in [0, 3, DEPTH] {
        let fixed = || Box::new(Static { depth, size: 1 });
        let mut live = SizeEnv::new(
            cycles(&engine, &Sampler::greedy()),
            fixed(),
            sizes.clone(),
            layout.clone(),
            meter(),
        );
        let mut replay = SizeEnv::new(replayed(&trace), fixed(), sizes.clone(), layout.clone(), meter());
        compare(&mut live, &mut replay, 5, 60);
    }
}

/// A constant that notes what it is shown, after the root expansion and each level.
struct Looking {
    trees: Static,
    looks: Looks,
    entropies: Vec<Vec<f32>>,
    states: Vec<Vec<f32>>,
}

impl Controller for Looking {
    fn size_limit(&self) -> usize {
        self.trees.size
    }

    fn looks(&self) -> Looks {
        self.looks
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        if self.looks.entropies {
            assert!(glimpse.entropies.ends_with(glimpse.last_level(summary)));
            // A group has candidates or no entropy.
            let groups = summary.scores.chunks_exact(summary.beam_width).zip(glimpse.entropies);
            groups.for_each(|(scores, entropy)| assert_eq!(scores[0].is_finite(), *entropy > 0.0));
        }
        self.entropies.push(glimpse.entropies.to_vec());
        self.states.push(glimpse.last_state(summary).to_vec());
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        let groups = 1 + summary.draft_depth * summary.beam_width;
        let expected = if self.looks.entropies { groups } else { 0 };
        assert_eq!(self.entropies.last().map(Vec::len), Some(expected));
        self.trees.continue_drafting(summary)
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.trees.size
    }
}

#[test]
fn one_that_looks_sees_the_same_live_and_recorded() {
    let engine = engine();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let hidden = engine.draft_config().block.hidden as usize;
    let with = TraceHeader { entropies: true, states: Some(hidden), ..header(&engine, 16) };
    let trace = record_as(&engine, folders[0].path(), &with);
    let looking = |depth, looks| {
        let (entropies, states) = (Vec::new(), Vec::new());
        Looking { trees: Static { depth, size: 6 }, looks, entropies, states }
    };
    let all = Looks { entropies: true, states: true };
    let kinds = [(3, all), (0, all), (DEPTH, Looks::STATES), (2, Looks::ENTROPIES), (DEPTH, all)];
    for (sequence, (depth, looks)) in whole(&trace).iter().cycle().zip(kinds) {
        let [mut live, mut recorded] = [looking(depth, looks), looking(depth, looks)];
        let mut session = engine.prefill(&sequence.tokens[..sequence.prompt_len], None).expect("prefill");
        while session.context_length() < sequence.prompt_len + sequence.len() {
            let outcome = engine.run_cycle(&mut session, &mut live).expect("a cycle");
            // What one looks at changes nothing.
            assert!(outcome.draft_depth <= depth);
        }
        replay_sequence(&trace.header, sequence, &costs(), &mut recorded, &mut |_| ()).expect("replayed");
        for (live, recorded) in [(&live.entropies, &recorded.entropies), (&live.states, &recorded.states)] {
            assert_eq!(live.len(), recorded.len());
            for (live, recorded) in live.iter().zip(recorded) {
                assert_eq!(live.len(), recorded.len());
                for (live, recorded) in live.iter().zip(recorded) {
                    assert!((live - recorded).abs() < 0.02, "{live} {recorded}");
                }
            }
        }
        // The first look of a cycle is at the root expansion, where no candidate has a state yet.
        let widths = |state: &Vec<f32>| [0, hidden].contains(&state.len());
        assert!(live.states.iter().all(widths));
        assert_eq!(live.states.iter().any(|state| !state.is_empty()), looks.states && depth > 0);
    }
    let without = record(&engine, folders[1].path(), 8);
    for (looks, flag) in [(Looks::ENTROPIES, "--entropies"), (Looks::STATES, "--states")] {
        let (header, sequence) = (&without.header, &whole(&without)[0]);
        let replayed = replay_sequence(header, sequence, &costs(), &mut looking(1, looks), &mut |_| ());
        assert!(replayed.expect_err("nothing to show").to_string().ends_with(flag));
    }
}

#[test]
fn a_source_environment_goes_on_from_its_state() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let merged = || Merged { chain: 8, calibration: Calibration::default() };
    let env = |live: bool| -> Box<dyn Env> {
        let (layout, meter) = (ObservationLayout::sequence(10, DEPTH), RewardMeter::new(Reward::Acceptance));
        let (chains, trees) = (
            SourceActions { chains: vec![2, 8], merged: Some(merged()) },
            Box::new(Static { depth: 2, size: 6 }),
        );
        if live {
            let cycles = cycles(&engine, &Sampler::greedy());
            Box::new(SourceEnv::new(cycles, trees, chains, layout, meter))
        } else {
            Box::new(SourceEnv::new(replayed(&trace), trees, chains, layout, meter))
        }
    };
    for live in [false, true] {
        let (mut first, mut second) = (env(live), env(live));
        let mut seen = [0, 1].map(|_| vec![0.0; first.observation_len()]);
        first.reset(&mut seen[0]).expect("reset");
        for number in 0..40 {
            if number % 13 == 7 {
                second.restore(first.state(), &mut seen[1]).expect("restored");
                assert_eq!(seen[0], seen[1], "live: {live}, step {number}");
                let steps = [
                    first.step(choose(number, 4), &mut seen[0]),
                    second.step(choose(number, 4), &mut seen[1]),
                ];
                let [a, b] =
                    steps.map(|step| step.expect("a step").outcome.expect("an outcome").accepted_ids);
                assert_eq!(a, b, "live: {live}, step {number}");
            } else {
                first.step(choose(number, 4), &mut seen[0]).expect("a step");
            }
            first.reset(&mut seen[0]).expect("reset");
        }
    }
}

#[test]
fn values_of_sources_are_the_rewards_of_taking_them() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let merged = Some(Merged { chain: 8, calibration: Calibration::default() });
    let chains = SourceActions { chains: vec![0, 2, 8], merged };
    let env = || {
        let (layout, meter) = (ObservationLayout::sequence(10, DEPTH), RewardMeter::new(Reward::Gain));
        let trees = Box::new(Static { depth: 2, size: 6 });
        SourceEnv::new(replayed(&trace), trees, chains.clone(), layout, meter)
    };
    let mut env_here = env();
    let mut seen = vec![0.0; env_here.observation_len()];
    let mut choices = std::collections::BTreeSet::new();
    env_here.reset(&mut seen).expect("reset");
    for number in 0..60 {
        let values = env_here.action_values(&mut |_| vec![0.2; 5], 0.9).expect("values").expect("in advance");
        for (action, value) in values.iter().enumerate() {
            let mut other = env();
            other.restore(env_here.state(), &mut vec![0.0; seen.len()]).expect("restored");
            let decision = Decision { action, ..choose(0, 1) };
            let reward = other.step(decision, &mut vec![0.0; seen.len()]).expect("a step").reward;
            assert!((reward - value).abs() < 1e-5, "step {number}, action {action}: {reward}, {value}");
        }
        let by_value = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
        choices.insert((0..values.len()).max_by(by_value).expect("actions"));
        env_here.step(choose(number, 5), &mut seen).expect("a step");
        env_here.reset(&mut seen).expect("reset");
    }
    assert!(choices.len() > 1, "the best action depends on the sequence: {choices:?}");
}

#[test]
fn a_full_cache_ends_both_alike() {
    let pair = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair");
    let config = ltd_engine::EngineConfig {
        dtype: DtypeSetting::F32,
        max_length: Some(40),
        ..ltd_engine::EngineConfig::new(pair.join("target"), pair.join("draft"))
    };
    let engine = Rc::new(Engine::load(&config).expect("the engine loads"));
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 1000);
    let stop = StopRule { max_new_tokens: 1000, eos: vec![2] };
    let live = LiveCycles::new(Rc::clone(&engine), PromptStream::new(prompts(), 1), stop, Sampler::greedy());
    let actions = DepthActions { min_depth: 0, max_depth: DEPTH, decide_every: 1 };
    let layout = ObservationLayout::reference_depth(10, DEPTH);
    let controller = || Box::new(Static { depth: 0, size: 60 });
    let meter = || RewardMeter::new(Reward::Throughput);
    let mut live = DepthEnv::new(live, controller(), actions, layout.clone(), meter());
    let mut replay = DepthEnv::new(replayed(&trace), controller(), actions, layout, meter());
    compare(&mut live, &mut replay, 2, 200);
}

#[test]
fn a_replay_is_deterministic_and_goes_on_from_its_state() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let scattered = scattered_table();
    let environment = |noise: bool| {
        let sizes = SizeActions { sizes: vec![4, 16, 60] };
        let layout = ObservationLayout::reference_size(10, DEPTH);
        let counterpart = Box::new(ltd_env::RandomDepth::new(0..=DEPTH, 60, 9));
        let cycles = replayed(&trace);
        let cycles = if noise { cycles.with_noise(Scatter::of(&scattered)) } else { cycles };
        SizeEnv::new(cycles, counterpart, sizes, layout, RewardMeter::new(Reward::Gain))
    };
    let run = |env: &mut dyn Env, observation: &mut Vec<f32>, steps: std::ops::Range<usize>| -> Vec<f32> {
        steps
            .map(|step| {
                let reward = env.step(choose(step, 3), observation).expect("step").reward;
                env.reset(observation).expect("reset");
                reward
            })
            .collect()
    };
    let rewards = [false, true].map(|noise| {
        let (mut env, mut observation) = (environment(noise), vec![0.0; 1268]);
        env.reset(&mut observation).expect("reset");
        run(&mut env, &mut observation, 0..20);
        let state = env.state();
        let expected = run(&mut env, &mut observation, 20..60);
        let mut restored = environment(noise);
        let mut again = vec![0.0; 1268];
        restored.restore(state, &mut again).expect("restore");
        assert_eq!(run(&mut restored, &mut again, 20..60), expected);
        assert_eq!(observation, again);
        expected
    });
    assert_ne!(rewards[0], rewards[1]);
}

/// [`table`] with samples that differ.
fn scattered_table() -> LatencyTable {
    let mut table = table();
    for point in
        [&mut table.root, &mut table.level, &mut table.verify].into_iter().flat_map(|s| &mut s.points)
    {
        let samples = [0.8, 1.0, 1.5].map(|ratio| (point.median * ratio) as f32);
        *point = GridPoint::new(point.count, point.context, samples.into());
    }
    table
}

/// Prefers some actions to others, as the observation has it.
fn policy(observation: &[f32], actions: usize) -> Vec<f32> {
    let sum: f32 = observation.iter().sum();
    let weights: Vec<f32> = (0..actions).map(|action| 1.0 + (sum * (action + 1) as f32).sin()).collect();
    weights.iter().map(|weight| weight / weights.iter().sum::<f32>()).collect()
}

/// The value of an action by taking it, and then every way on.
fn by_taking(
    environment: &dyn Fn() -> Box<dyn Env>,
    state: &serde_json::Value,
    action: usize,
    gamma: f32,
) -> f32 {
    let mut env = environment();
    let mut observation = vec![0.0; env.observation_len()];
    env.restore(state.clone(), &mut observation).expect("restored");
    let decision = Decision { action, elapsed: std::time::Duration::ZERO };
    let step = env.step(decision, &mut observation).expect("step");
    if step.terminated {
        return step.reward;
    }
    let (state, probabilities) = (env.state(), policy(&observation, env.n_actions()));
    let ways = probabilities.iter().enumerate();
    step.reward
        + gamma * ways.map(|(action, p)| p * by_taking(environment, &state, action, gamma)).sum::<f32>()
}

#[test]
fn values_of_actions_are_those_of_all_ways_on() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let meter = || RewardMeter::new(Reward::Gain);
    let depth = || -> Box<dyn Env> {
        let actions = DepthActions { min_depth: 0, max_depth: 9, decide_every: 2 };
        let layout = ObservationLayout::compact(PolicyKind::Depth, 10, DEPTH);
        let counterpart = Box::new(Static { depth: 0, size: 12 });
        Box::new(DepthEnv::new(replayed(&trace), counterpart, actions, layout, meter()))
    };
    let size = || -> Box<dyn Env> {
        let actions = SizeActions { sizes: vec![1, 4, 16, 60] };
        let layout = ObservationLayout::compact(PolicyKind::Size, 10, DEPTH);
        let counterpart = Box::new(ltd_env::RandomDepth::new(0..=6, 60, 9));
        Box::new(SizeEnv::new(replayed(&trace), counterpart, actions, layout, meter()))
    };
    for environment in [&depth as &dyn Fn() -> Box<dyn Env>, &size] {
        let mut env = environment();
        let count = env.n_actions();
        let mut observation = vec![0.0; env.observation_len()];
        env.reset(&mut observation).expect("reset");
        let mut distinct = 0;
        for number in 0..60 {
            let state = env.state();
            let mut policy = |observation: &[f32]| policy(observation, count);
            let values = env.action_values(&mut policy, 0.9).expect("values").expect("known in advance");
            assert_eq!(env.state(), state, "looking ahead changes nothing");
            for (action, found) in values.iter().enumerate() {
                let expected = by_taking(environment, &state, action, 0.9);
                assert!(
                    (found - expected).abs() < 1e-5,
                    "step {number}, action {action}: {found} {expected}"
                );
            }
            distinct += usize::from(values.iter().any(|value| (value - values[0]).abs() > 1e-3));
            if env.step(choose(number, count), &mut observation).expect("step").terminated {
                env.reset(&mut observation).expect("reset");
            }
        }
        assert!(distinct > 30, "actions must differ for this to say anything: {distinct}");
    }
}

#[test]
fn a_measured_table_can_be_used() {
    let engine = engine();
    let plan = LatencyPlan {
        max_depth: 4,
        sizes: vec![1, 20, 60],
        contexts: vec![20, 100],
        repeats: 7,
        held_out: 10,
        seed: 3,
    };
    let mut told = Vec::new();
    let measured =
        measure(&engine, &plan, &Interrupt::default(), &mut |done, planned| told.push((done, planned)))
            .expect("measured");
    let table =
        LatencyTable { root: measured.root, level: measured.level, verify: measured.verify, ..empty_table() };
    assert_eq!(table.verify.counts(), [1, 20, 60]);
    // What a cycle accepts, and what copies leave behind that the shortest context has room for.
    assert_eq!((table.root.counts(), table.level.counts()), (vec![1, 2, 3, 4, 5, 16], (1..=4).collect()));
    assert_eq!(table.verify.contexts(), [20, 100]);
    for point in &table.verify.points {
        let rounds = point.samples.len() / 7;
        assert!(point.median > 0.0 && point.samples.len() == rounds * 7 && (1..=4).contains(&rounds));
        assert!(rounds == 4 || point.notch() <= 0.02 * point.median, "{point:?} is in doubt");
    }
    assert_eq!(told[..3], [(1, 42), (2, 42), (3, 42)]);
    assert!(told.iter().all(|(done, planned)| done <= planned), "{told:?}");
    let cycles: usize = table.verify.points.iter().map(|point| point.samples.len()).sum();
    assert_eq!(told.last(), Some(&(cycles, cycles)));
    let error = held_out_error(&engine, &plan, &table.model(), &Interrupt::default(), &mut |_, _| ())
        .expect("compared");
    assert_eq!(error.cycles, 10);
    assert!(error.median >= 0.0 && error.p90 >= error.median);
}
