//! Cycles whose every number is known.

use std::time::Duration;

use ltd_cycle::{Controller, CycleOutcome, CycleTiming, Static};
use ltd_env::{
    Cycle, CycleBackend, Decision, DepthEnv, Env, Error, Result, Reward, RewardMeter, SizeEnv, SourceEnv,
    Step,
};
use ltd_policy::{
    Agreement, Calibration, CycleSummary, DepthActions, DraftSource, ObservationLayout, SizeActions,
    SourceActions, SourceSummary,
};

const WIDTH: usize = 2;
const CAP: usize = 6;

/// Cycle `n` scores its candidates `-n`, a level costs 10 ms, verification 20 ms, and `min(depth,
/// size)` draft tokens are accepted.
#[derive(Default)]
struct Script {
    begun: usize,
    verified_sizes: Vec<usize>,
    /// Depth from which on nothing is left to expand.
    dry_from: Option<usize>,
}

#[derive(Clone)]
struct ScriptedCycle {
    scores: Vec<f32>,
    number: usize,
    depth: usize,
    dry_from: Option<usize>,
    policy: Duration,
}

impl Cycle for ScriptedCycle {
    fn summary(&self) -> CycleSummary<'_> {
        let (scores, draft_depth) = (&self.scores[..], self.depth);
        let dry = self.dry_from.is_some_and(|depth| draft_depth >= depth);
        let frontier = if dry { 0 } else { WIDTH };
        CycleSummary { scores, beam_width: WIDTH, frontier, draft_depth, context_length: 100 }
    }

    fn add_policy_time(&mut self, elapsed: Duration) {
        self.policy += elapsed;
    }

    // Clocks have no place in a script.
    fn decide<T>(&mut self, decide: impl FnOnce(&CycleSummary) -> T) -> T {
        decide(&self.summary())
    }
}

impl CycleBackend for Script {
    type Cycle = ScriptedCycle;

    fn begin(&mut self, _size_limit: usize) -> Result<ScriptedCycle> {
        self.begun += 1;
        let scores = vec![-(self.begun as f32); WIDTH];
        let (number, dry_from) = (self.begun, self.dry_from);
        Ok(ScriptedCycle { scores, number, depth: 0, dry_from, policy: Duration::ZERO })
    }

    fn expand(&mut self, cycle: &mut ScriptedCycle) -> Result<()> {
        cycle.depth += 1;
        cycle.scores.extend([-(cycle.number as f32); WIDTH * WIDTH]);
        Ok(())
    }

    fn agreement(&mut self, _cycle: &ScriptedCycle) -> Result<Option<Agreement>> {
        Ok(None)
    }

    fn verify(&mut self, cycle: ScriptedCycle, size: usize) -> Result<CycleOutcome> {
        self.verified_sizes.push(size);
        self.foresee(&cycle, size).ok_or(Error::NoEpisode)
    }

    /// A token more than the tree has.
    fn merge(
        &mut self,
        cycle: ScriptedCycle,
        size: usize,
        chain: usize,
        _calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        let outcome = self.verify(cycle, size)?;
        let accepted_ids = vec![0; outcome.acceptance_length() + 1];
        Ok(CycleOutcome { source: DraftSource::Merged { chain }, copied: Some(1), accepted_ids, ..outcome })
    }

    fn source_summary(&mut self) -> Result<SourceSummary> {
        // Every other cycle has something to copy.
        let match_length = 3 * (self.begun % 2);
        Ok(SourceSummary { context_length: 100, match_length, ..SourceSummary::default() })
    }

    fn copy(&mut self, chain: usize) -> Result<CycleOutcome> {
        self.begun += 1;
        self.foresee_copy(chain).ok_or(Error::NoEpisode)
    }

    fn foresee_copy(&self, chain: usize) -> Option<CycleOutcome> {
        let timing = CycleTiming { verify: Duration::from_millis(20), ..CycleTiming::default() };
        Some(CycleOutcome {
            source: DraftSource::Copy { chain },
            copied: Some(chain.min(5)),
            accepted_ids: vec![0; 1 + chain.min(5)],
            verification_size: chain,
            requested_size: chain,
            context_length: 100,
            timing,
            ..CycleOutcome::default()
        })
    }

    fn duplicate(&self, cycle: &ScriptedCycle) -> Option<ScriptedCycle> {
        Some(cycle.clone())
    }

    fn foresee(&self, cycle: &ScriptedCycle, size: usize) -> Option<CycleOutcome> {
        let draft = Duration::from_millis(10 * cycle.depth as u64);
        let verify = Duration::from_millis(20);
        let timing = CycleTiming { draft, policy: cycle.policy, verify, ..CycleTiming::default() };
        Some(CycleOutcome {
            drafted: Some(cycle.depth.min(size)),
            accepted_ids: vec![0; 1 + cycle.depth.min(size)],
            next_token: 0,
            draft_depth: cycle.depth,
            level_rows: vec![WIDTH; cycle.depth],
            verification_size: size,
            requested_size: size,
            context_length: 100,
            timing,
            ..CycleOutcome::default()
        })
    }

    fn state(&self) -> serde_json::Value {
        self.begun.into()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        // The cycle under way is begun again.
        self.begun = serde_json::from_value::<usize>(state)? - 1;
        Ok(())
    }
}

fn depth_env(actions: DepthActions, reward: Reward) -> DepthEnv<Script> {
    let layout = ObservationLayout::reference_depth(WIDTH, CAP);
    let counterpart = Box::new(Static { depth: 0, size: 3 });
    DepthEnv::new(Script::default(), counterpart, actions, layout, RewardMeter::new(reward))
}

fn size_env(counterpart: Box<dyn Controller>) -> SizeEnv<Script> {
    let layout = ObservationLayout::reference_size(WIDTH, CAP);
    let actions = SizeActions { sizes: vec![1, 2, 4] };
    SizeEnv::new(Script::default(), counterpart, actions, layout, RewardMeter::new(Reward::Acceptance))
}

fn decide(action: usize) -> Decision {
    Decision { action, elapsed: Duration::ZERO }
}

#[test]
fn a_depth_episode_pays_at_its_end_only() {
    let mut env = depth_env(DepthActions { min_depth: 0, max_depth: 6, decide_every: 1 }, Reward::Throughput);
    let mut observation = vec![f32::NAN; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    for _ in 0..2 {
        let step = env.step(decide(DepthActions::CONTINUE), &mut observation).expect("step");
        assert_eq!((step.reward, step.terminated, step.outcome), (0.0, false, None));
    }
    let late = Decision { action: DepthActions::STOP, elapsed: Duration::from_millis(10) };
    let step = env.step(late, &mut observation).expect("step");
    assert!(step.terminated);
    // 3 tokens in 2 * 10 ms of drafting, 20 ms of verification and 10 ms of deciding: 0.6 per 10
    // ms.
    assert!((step.reward - 0.6).abs() < 1e-6, "{}", step.reward);
    assert!(matches!(env.step(decide(0), &mut observation), Err(Error::NoEpisode)));
}

#[test]
fn decisions_are_asked_for_at_the_cadence_and_never_where_they_are_forced() {
    let mut env = depth_env(DepthActions { min_depth: 1, max_depth: 6, decide_every: 2 }, Reward::Acceptance);
    let mut observation = vec![0.0; env.observation_len()];
    let mut asked = Vec::new();
    env.reset(&mut observation).expect("reset");
    let depth = loop {
        asked.push((observation[observation.len() - 1] * 10.0).round());
        let step = env.step(decide(DepthActions::CONTINUE), &mut observation).expect("step");
        if let Some(outcome) = step.outcome {
            break outcome.draft_depth;
        }
    };
    assert_eq!(asked, [1.0, 3.0, 5.0]);
    assert_eq!(depth, 6, "the table's maximum ends drafting by itself");
}

#[test]
fn drafting_ends_where_nothing_is_left_to_expand() {
    let dry = |actions: DepthActions| {
        let layout = ObservationLayout::reference_depth(WIDTH, CAP);
        let script = Script { dry_from: Some(2), ..Script::default() };
        let counterpart = Box::new(Static { depth: 0, size: 3 });
        DepthEnv::new(script, counterpart, actions, layout, RewardMeter::new(Reward::Acceptance))
    };
    let mut env = dry(DepthActions { min_depth: 1, max_depth: CAP, decide_every: 1 });
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).unwrap();
    let values = env.action_values(&mut |_| vec![0.0, 1.0], 1.0).unwrap().expect("outcomes are known");
    assert_eq!(values, [2.0, 3.0], "one level ahead, and none after it");
    let step = env.step(decide(DepthActions::CONTINUE), &mut observation).unwrap();
    assert!(step.terminated && step.outcome.is_some_and(|outcome| outcome.draft_depth == 2));
    let mut env = dry(DepthActions { min_depth: 3, max_depth: CAP, decide_every: 1 });
    assert!(matches!(env.reset(&mut observation), Err(Error::NoDecision { .. })));
}

#[test]
fn stale_scores_do_not_cross_cycles() {
    let mut env = depth_env(DepthActions { min_depth: 0, max_depth: 6, decide_every: 1 }, Reward::Acceptance);
    let mut observation = vec![0.0; env.observation_len()];
    for cycle in 1..4 {
        env.reset(&mut observation).expect("reset");
        // Only the two candidates of the root level, then padding.
        assert_eq!(observation[..4], [-(cycle as f32), -(cycle as f32), 0.0, 0.0]);
        env.step(decide(DepthActions::CONTINUE), &mut observation).expect("step");
        assert_eq!(observation[..4], [-(cycle as f32); 4]);
        env.step(decide(DepthActions::STOP), &mut observation).expect("step");
    }
}

#[test]
fn a_size_episode_is_one_decision_on_the_counterparts_tree() {
    let mut env = size_env(Box::new(Static { depth: 3, size: 99 }));
    let mut observation = vec![f32::NAN; env.observation_len()];
    for (action, size) in [(0, 1), (2, 4), (1, 2)] {
        env.reset(&mut observation).expect("reset");
        assert_eq!(observation.iter().filter(|value| **value < 0.0).count(), WIDTH + 3 * WIDTH * WIDTH);
        let step = env.step(decide(action), &mut observation).expect("step");
        let outcome = step.outcome.expect("an outcome");
        assert_eq!((outcome.verification_size, outcome.draft_depth), (size, 3));
        assert!((step.reward - (1.0 + 3.min(size) as f32)).abs() < 1e-6);
    }
    env.reset(&mut observation).expect("reset");
    let error = env.step(decide(3), &mut observation).expect_err("no such action");
    assert_eq!(error.to_string(), "action 3 was taken, but there are only 3");
}

#[test]
fn a_counterpart_that_never_stops_is_cut_at_the_layouts_depth() {
    let mut env = size_env(Box::new(Static { depth: usize::MAX, size: 1 }));
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    let step = env.step(decide(0), &mut observation).expect("step");
    assert_eq!(step.outcome.expect("an outcome").draft_depth, CAP);
}

#[test]
fn a_restored_environment_shows_the_pending_observation_and_goes_on() {
    let actions = DepthActions { min_depth: 0, max_depth: 6, decide_every: 1 };
    let mut env = depth_env(actions, Reward::Gain);
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    env.step(decide(DepthActions::STOP), &mut observation).expect("step");
    env.reset(&mut observation).expect("reset");
    env.step(decide(DepthActions::CONTINUE), &mut observation).expect("step");
    let mut restored = depth_env(actions, Reward::Gain);
    let mut shown = vec![0.0; restored.observation_len()];
    restored.restore(env.state(), &mut shown).expect("restored");
    assert_eq!(shown, observation);
    let expected = env.step(decide(DepthActions::STOP), &mut observation).expect("step");
    assert_eq!(restored.step(decide(DepthActions::STOP), &mut shown).expect("step"), expected);
}

#[test]
fn values_of_actions_are_the_expectations_of_what_follows() {
    let mut env = depth_env(DepthActions { min_depth: 1, max_depth: 6, decide_every: 2 }, Reward::Throughput);
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    // At depth d, min(d, 3) + 1 tokens in 10 d + 20 ms; asked at 1, 3 and 5; the policy stops in a
    // quarter of cases.
    let throughput = |depth: usize| (1 + depth.min(3)) as f32 / (depth + 2) as f32;
    let policy = |observation: &[f32]| {
        assert_eq!(observation.len(), WIDTH * WIDTH + 28);
        vec![0.25, 0.75]
    };
    let at_five = 0.25 * throughput(5) + 0.75 * throughput(6);
    let at_three = 0.25 * throughput(3) + 0.75 * 0.9 * at_five;
    let values = env.action_values(&mut { policy }, 0.9).expect("values").expect("known in advance");
    for (found, expected) in values.iter().zip([throughput(1), 0.9 * at_three]) {
        assert!((found - expected).abs() < 1e-6, "{values:?}");
    }
    let Step { reward, .. } = env.step(decide(DepthActions::STOP), &mut observation).expect("step");
    assert_eq!(reward, values[DepthActions::STOP]);
    let error = env.action_values(&mut { policy }, 0.9).expect_err("no decision is pending");
    assert!(matches!(error, Error::NoEpisode));
}

fn source_env(counterpart: Box<dyn Controller>) -> SourceEnv<Script> {
    let layout = ObservationLayout::sequence(WIDTH, CAP);
    let actions = SourceActions { chains: vec![2, 8], merged: None };
    SourceEnv::new(Script::default(), counterpart, actions, layout, RewardMeter::new(Reward::Throughput))
}

#[test]
fn a_source_episode_is_a_tree_of_the_counterpart_or_a_chain() {
    let mut env = source_env(Box::new(Static { depth: 1, size: 9 }));
    let mut observation = vec![f32::NAN; env.observation_len()];
    assert_eq!(env.n_actions(), 3);
    // Of the first cycle nothing can be copied: it goes by.
    env.reset(&mut observation).expect("reset");
    assert!(observation.iter().all(|number| number.is_finite()), "{observation:?}");
    let step = env.step(decide(2), &mut observation).expect("step");
    let outcome = step.outcome.expect("an outcome");
    assert_eq!((outcome.source, outcome.verification_size), (DraftSource::Copy { chain: 8 }, 8));
    // 6 tokens in 20 ms.
    assert!(step.terminated && (2.9..=3.0).contains(&step.reward), "{}", step.reward);
    assert!(matches!(env.step(decide(0), &mut observation), Err(Error::NoEpisode)));
    env.reset(&mut observation).expect("reset");
    let late = Decision { action: SourceActions::TREE, elapsed: Duration::from_millis(10) };
    let step = env.step(late, &mut observation).expect("step");
    let outcome = step.outcome.expect("an outcome");
    assert_eq!((outcome.source, outcome.draft_depth), (DraftSource::Tree, 1));
    // 2 tokens in 10 ms of drafting, 20 of verification and 10 of deciding.
    assert!((step.reward - 0.5).abs() < 0.02, "{}", step.reward);
    env.reset(&mut observation).expect("reset");
    let error = env.step(decide(3), &mut observation).expect_err("no such action");
    assert_eq!(error.to_string(), "action 3 was taken, but there are only 3");
}

#[test]
fn a_restored_source_environment_waits_for_the_same_decision() {
    let mut env = source_env(Box::new(Static { depth: 1, size: 9 }));
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    let state = env.state();
    let mut restored = source_env(Box::new(Static { depth: 1, size: 9 }));
    let mut shown = vec![0.0; restored.observation_len()];
    // A script begins its cycle under way again; here none is.
    let mut state = state;
    let begun = state["episodes"]["backend"].as_u64().expect("a number") + 1;
    state["episodes"]["backend"] = begun.into();
    restored.restore(state, &mut shown).expect("restored");
    assert_eq!(shown, observation);
    let (step, expected) = (restored.step(decide(1), &mut shown), env.step(decide(1), &mut observation));
    let tokens = |step: Result<Step>| step.expect("a step").outcome.expect("an outcome").accepted_ids;
    assert_eq!(tokens(step), tokens(expected));
}

/// Copies where something can be, and else drafts.
#[derive(Clone, Copy)]
struct CopyWherePossible;

impl Controller for CopyWherePossible {
    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        if summary.match_length > 0 { DraftSource::Copy { chain: 4 } } else { DraftSource::Tree }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < 1
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        2
    }
}

#[test]
fn cycles_that_the_counterpart_has_copy_go_by() {
    let mut env = size_env(Box::new(CopyWherePossible));
    let mut observation = vec![0.0; env.observation_len()];
    for _ in 0..4 {
        env.reset(&mut observation).expect("reset");
        let step = env.step(decide(1), &mut observation).expect("step");
        assert_eq!(step.outcome.expect("an outcome").source, DraftSource::Tree);
    }
    // One tree, then by turns a copy and a tree.
    assert_eq!(env.state()["backend"], 4 + 3);
}
