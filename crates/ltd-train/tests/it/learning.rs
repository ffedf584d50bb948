//! PPO learns, repeats itself exactly, and goes on where it was saved.

use ltd_env::testing::{ContextualBandit, IdentityEnv};
use ltd_env::{Decision, Env};
use ltd_policy::argmax;
use ltd_train::ppo::{Learner, NetArch, PpoConfig};

fn train(env: &mut dyn Env, config: PpoConfig, timesteps: usize, seed: u64) -> Learner {
    let mut learner = Learner::new(env.observation_len(), env.n_actions(), config, seed, "test");
    iterate(&mut learner, env, timesteps, timesteps);
    learner
}

fn iterate(learner: &mut Learner, env: &mut dyn Env, until: usize, total: usize) {
    while learner.timesteps() < until {
        let buffer = learner.collect(env, &mut |_, _| ()).expect("a rollout");
        let progress = learner.timesteps() as f64 / total as f64;
        learner.update(&buffer, progress);
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
    // Shaped like the size problem: one decision per episode, noisy rewards, the best action depends on scores.
    let mut env = ContextualBandit::new(1);
    let learner = train(&mut env, PpoConfig { learning_rate: 3e-3, ..config() }, 16_000, 3);
    let constants: Vec<f64> =
        (0..env.n_actions()).map(|action| env.mean_reward_of_constant(action)).collect();
    let best_constant = constants.iter().copied().fold(f64::MIN, f64::max);
    let best = env.mean_reward_of_optimum();
    let learned = greedy_reward(&learner, &mut ContextualBandit::new(77), 4_000);
    let closed = (learned - best_constant) / (best - best_constant);
    assert!(closed > 0.7, "learned {learned}, constant {best_constant}, optimum {best}");
}

#[test]
fn the_same_seed_gives_the_same_policy_and_another_seed_another() {
    let run = |seed| train(&mut IdentityEnv::new(4, 5, 1), config(), 512, seed).mlp();
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_resumed_learner_ends_where_an_uninterrupted_one_does() {
    let total = 1_024;
    let mut env = IdentityEnv::new(4, 5, 1);
    let mut uninterrupted = Learner::new(4, 4, config(), 5, "test");
    iterate(&mut uninterrupted, &mut env, total, total);

    let folder = std::env::temp_dir().join(format!("ltd-resume-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("learner.safetensors");
    let mut env = IdentityEnv::new(4, 5, 1);
    let mut first = Learner::new(4, 4, config(), 5, "test");
    iterate(&mut first, &mut env, total / 2, total);
    first.save(&path).expect("saved");
    let state = env.state();

    let mut env = IdentityEnv::new(4, 5, 1);
    let mut second = Learner::new(4, 4, config(), 999, "test");
    // Another seed made it; everything must come from the checkpoint but the streams' keys.
    let mut resumed = Learner::new(4, 4, config(), 5, "test");
    for learner in [&mut second, &mut resumed] {
        learner.load(&path).expect("loaded");
    }
    env.restore(state, resumed.pending_observation()).expect("restored");
    iterate(&mut resumed, &mut env, total, total);
    assert_eq!(resumed.mlp(), uninterrupted.mlp());
    assert_eq!(resumed.episodes(), uninterrupted.episodes());
    assert_eq!(second.mlp(), first.mlp());

    let bytes = std::fs::read(&path).expect("the checkpoint");
    for end in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..end]).expect("written");
        let error = second.load(&path).expect_err("truncated").to_string();
        assert!(error.contains("learner.safetensors: not a checkpoint of this run"), "{error}");
    }
    std::fs::write(&path, &bytes).expect("written");
    let error = Learner::new(4, 7, config(), 5, "test").load(&path).expect_err("other shape").to_string();
    assert!(error.contains("policy.1.weight has shape [4, 32], this configuration needs [7, 32]"), "{error}");
    std::fs::remove_dir_all(folder).expect("removed");
}
