//! PPO learns, repeats itself exactly, and goes on where it was saved.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use ltd_env::{Decision, Env};
use ltd_policy::argmax;
use ltd_run::config::{Advantage, NetArch, PpoConfig};
use ltd_train::ppo::Learner;

use crate::environments::{ContextualBandit, IdentityEnv};

fn train(env: &mut dyn Env, config: PpoConfig, timesteps: usize, seed: u64) -> Learner {
    let mut learner = Learner::new(env.observation_len(), env.n_actions(), config, seed, "test");
    iterate(&mut learner, env, timesteps, timesteps);
    learner
}

fn iterate(learner: &mut Learner, env: &mut dyn Env, until: usize, total: usize) {
    while learner.timesteps() < until {
        let buffer = learner.collect(env, &mut |_| (), &|| false).expect("steps").expect("a whole rollout");
        let progress = learner.timesteps() as f64 / total as f64;
        learner.update(&buffer, progress, &|| false).expect("an update");
    }
}

fn greedy_reward(learner: &Learner, env: &mut dyn Env, steps: usize) -> f64 {
    let mlp = learner.mlp();
    let mut scratch = mlp.scratch();
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    let mut total = 0.0;
    for _ in 0..steps {
        let action = argmax(mlp.forward(&observation, &mut scratch));
        let step = env.step(Decision { action, elapsed: std::time::Duration::ZERO }, &mut observation);
        let step = step.expect("step");
        total += f64::from(step.reward);
        if step.terminated {
            env.reset(&mut observation).expect("reset");
        }
    }
    total / steps as f64
}

fn config() -> PpoConfig {
    PpoConfig { gamma: 0.5, net_arch: NetArch { pi: vec![32], vf: vec![32] }, ..PpoConfig::default() }
}

#[test]
fn the_identity_is_learned() {
    let learner = train(&mut IdentityEnv::new(6, 10, 1), config(), 6_000, 1);
    let reward = greedy_reward(&learner, &mut IdentityEnv::new(6, 10, 99), 500);
    assert!(reward > 0.95, "{reward}");
}

#[test]
fn the_right_size_is_learned_from_what_the_tree_looks_like() {
    // Shaped like the size problem: one decision per episode, noisy rewards, the best action
    // depends on scores.
    let mut env = ContextualBandit::new(1);
    let learner = train(&mut env, PpoConfig { learning_rate: 3e-3, ..config() }, 16_000, 3);
    let closed = closed(&learner);
    assert!(closed > 0.7, "{closed}");
}

#[test]
fn with_every_outcome_known_the_same_is_learned_from_fewer_steps() {
    let exact = PpoConfig { learning_rate: 3e-3, advantage: Advantage::Exact, ..config() };
    let sampled = PpoConfig { advantage: Advantage::Sampled, ..exact.clone() };
    let [exact, sampled] =
        [exact, sampled].map(|config| closed(&train(&mut ContextualBandit::new(1), config, 4_096, 3)));
    assert!(exact > 0.8 && exact > sampled, "exact {exact}, sampled {sampled}");
}

/// How much of the gap between the best constant and the optimum a policy closes.
fn closed(learner: &Learner) -> f64 {
    let env = ContextualBandit::new(1);
    let constants: Vec<f64> = (0..env.n_actions()).map(ContextualBandit::mean_reward_of_constant).collect();
    let best_constant = constants.iter().copied().fold(f64::MIN, f64::max);
    let best = ContextualBandit::mean_reward_of_optimum();
    let learned = greedy_reward(learner, &mut ContextualBandit::new(77), 4_000);
    (learned - best_constant) / (best - best_constant)
}

#[test]
fn the_same_seed_gives_the_same_policy_and_another_seed_another() {
    let run = |seed| train(&mut IdentityEnv::new(4, 5, 1), config(), 512, seed).mlp();
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_learner_that_was_interrupted_at_any_step_ends_where_an_uninterrupted_one_does() {
    interrupt_anywhere(&|| IdentityEnv::new(4, 5, 1), &config());
    interrupt_anywhere(&|| ContextualBandit::new(1), &PpoConfig { advantage: Advantage::Exact, ..config() });
}

fn interrupt_anywhere<E: Env>(environment: &dyn Fn() -> E, config: &PpoConfig) {
    let total = 1_024;
    let (mut env, config) = (environment(), || config.clone());
    let (inputs, outputs) = (env.observation_len(), env.n_actions());
    let learner = || Learner::new(inputs, outputs, config(), 5, "test");
    let mut uninterrupted = learner();
    iterate(&mut uninterrupted, &mut env, total, total);

    // In the middle of a rollout, after its last step, before anything, and after some minibatches
    // of an update.
    for (stop_after, minibatches) in [(300, 0), (512, 0), (0, 0), (384, 1), (512, 7)] {
        let mut env = environment();
        let mut first = learner();
        iterate(&mut first, &mut env, stop_after / 128 * 128, total);
        if stop_after % 128 > 0 {
            let steps = Cell::new(stop_after / 128 * 128);
            let stopped =
                first.collect(&mut env, &mut |_| steps.set(steps.get() + 1), &|| steps.get() == stop_after);
            assert!(stopped.expect("steps").is_none());
        }
        if minibatches > 0 {
            first.fill_rollout(&mut env, &mut |_| (), &|| false).expect("steps");
        } else {
            assert_eq!(first.timesteps(), stop_after);
        }
        let (snapshot, state) = (first.snapshot(), env.state());
        if minibatches > 0 {
            let (buffer, asked) = (first.finish_rollout(), AtomicUsize::new(0));
            let progress = first.timesteps() as f64 / total as f64;
            let stopped =
                first.update(&buffer, progress, &|| asked.fetch_add(1, Ordering::Relaxed) >= minibatches);
            assert!(stopped.is_none());
        }

        let mut env = environment();
        let mut resumed = learner();
        resumed.restore(&snapshot).expect("restored");
        env.restore(state, resumed.pending_observation()).expect("restored");
        iterate(&mut resumed, &mut env, total, total);
        assert_eq!(resumed.mlp(), uninterrupted.mlp());
        assert_eq!(resumed.episodes(), uninterrupted.episodes());
    }
}

#[test]
fn exact_advantages_need_outcomes_known_in_advance() {
    let config = PpoConfig { advantage: Advantage::Exact, ..config() };
    let mut learner = Learner::new(4, 4, config, 5, "test");
    let error = learner.collect(&mut IdentityEnv::new(4, 5, 1), &mut |_| (), &|| false);
    let error = error.expect_err("an environment that has to be tried").to_string();
    assert!(error.contains("exact advantages need recorded cycles"), "{error}");
}

#[test]
fn a_snapshot_of_another_shape_is_refused_with_what_differs() {
    let snapshot = Learner::new(4, 4, config(), 5, "test").snapshot();
    let error = Learner::new(4, 7, config(), 5, "test").restore(&snapshot).expect_err("another shape");
    assert_eq!(error, "policy.1.weight has shape [4, 32], this configuration needs [7, 32]");
}
