//! The objective over all actions is what the objective over actions taken estimates.

use ltd_env::stream;
use ltd_run::config::{Advantage, NetArch, PpoConfig};
use ltd_train::ppo::{ActorCritic, EveryAction, Loss, RolloutBuffer, ppo_loss};
use ndarray::{Array1, Array2, Axis};
use rand::Rng;

const STATES: usize = 5;
const ACTIONS: usize = 4;
/// Draws per state: estimates are off by about 1 %.
const DRAWS: usize = 8_000;

fn networks(name: &str) -> ActorCritic {
    let arch = NetArch { pi: vec![16], vf: vec![4] };
    let mut networks = ActorCritic::new(STATES, ACTIONS, &arch, &mut stream(3, name));
    // A fresh action head is nearly uniform: here policies must differ, and ratios leave the clip
    // range.
    let mut tensors = networks.named_parameters();
    for (name, parameter) in &mut tensors {
        if name == "policy.1.weight" {
            *parameter = &*parameter * 40.0;
        }
    }
    networks.load(&tensors).expect("the same shapes");
    networks
}

/// Every state, with the values of its actions, drawn `DRAWS` times by the policy of `networks`.
fn rollout(networks: &ActorCritic) -> RolloutBuffer {
    let mut random = stream(4, "draws");
    let action_values = Array2::from_shape_fn((STATES, ACTIONS), |_| random.random_range(-1.0..1.0f32));
    let states: Vec<f32> = Array2::eye(STATES).iter().copied().collect();
    let log_probs = networks.log_probs(&states);
    let log_probs = Array2::from_shape_vec((STATES, ACTIONS), log_probs).expect("shape");
    let values = (log_probs.mapv(f32::exp) * &action_values).sum_axis(Axis(1));
    let advantages = action_values - values.insert_axis(Axis(1));
    let state_of = |step: usize| step % STATES;
    let steps = STATES * DRAWS;
    let draw = |step: usize, random: &mut rand_chacha::ChaCha8Rng| {
        let mut rest = random.random::<f32>();
        let drawn = (0..ACTIONS).find(|&action| {
            rest -= log_probs[[state_of(step), action]].exp();
            rest < 0.0
        });
        drawn.unwrap_or(ACTIONS - 1)
    };
    let actions: Vec<usize> = (0..steps).map(|step| draw(step, &mut random)).collect();
    let taken = |table: &Array2<f32>| -> Array1<f32> {
        actions.iter().enumerate().map(|(step, &action)| table[[state_of(step), action]]).collect()
    };
    let every =
        |table: &Array2<f32>| Array2::from_shape_fn((steps, ACTIONS), |(step, a)| table[[state_of(step), a]]);
    RolloutBuffer {
        observations: Array2::from_shape_fn((steps, STATES), |(step, input)| {
            f32::from(u8::from(state_of(step) == input))
        }),
        actions: actions.iter().map(|&action| action as i64).collect(),
        values: Array1::zeros(steps),
        log_probs: taken(&log_probs),
        advantages: taken(&advantages),
        returns: Array1::zeros(steps),
        every_action: Some(EveryAction { log_probs: every(&log_probs), advantages: every(&advantages) }),
    }
}

/// The loss of all steps, and the gradient of its policy part alone.
fn loss_of_policy(config: &PpoConfig, networks: &ActorCritic, buffer: &RolloutBuffer) -> Loss {
    let config = PpoConfig { ent_coef: 0.0, ..config.clone() };
    ppo_loss(&config, networks, buffer, &(0..buffer.len()).collect::<Vec<_>>())
}

/// The length of the difference of two vectors.
fn distance(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(one - other).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn what_is_sampled_approaches_what_is_exact() {
    let acted = networks("acted");
    let exact = rollout(&acted);
    let sampled = RolloutBuffer { every_action: None, ..exact.clone() };
    for normalize_advantage in [false, true] {
        let config = PpoConfig { normalize_advantage, advantage: Advantage::Exact, ..PpoConfig::default() };
        // At the policy that acted, and at another one, where ratios are clipped.
        for (now, clips) in [(&acted, false), (&networks("moved"), true)] {
            let [exact, sampled] = [&exact, &sampled].map(|buffer| loss_of_policy(&config, now, buffer));
            assert_eq!(exact.clip_fraction > 0.1, clips, "{}", exact.clip_fraction);
            for (name, exact, sampled) in [
                ("policy loss", exact.policy, sampled.policy),
                ("KL", exact.approx_kl, sampled.approx_kl),
                ("clip fraction", exact.clip_fraction, sampled.clip_fraction),
            ] {
                assert!((exact - sampled).abs() < 0.02, "{name}: exact {exact}, sampled {sampled}");
            }
            let (exact, sampled) = (exact.policy_gradient, sampled.policy_gradient);
            let error = distance(&sampled, &exact) / distance(&exact, &vec![0.0; exact.len()]);
            assert!(error < 0.05, "gradients differ by {error}");
        }
    }
}

#[test]
fn all_actions_advantages_are_measured_in_units_of_their_deviation() {
    let networks = networks("acted");
    let buffer = rollout(&networks);
    let config = PpoConfig { advantage: Advantage::Exact, ..PpoConfig::default() };
    let scaled = RolloutBuffer {
        every_action: buffer
            .every_action
            .clone()
            .map(|every| EveryAction { advantages: every.advantages * 100.0, ..every }),
        ..buffer.clone()
    };
    let [one, other] =
        [&buffer, &scaled].map(|buffer| loss_of_policy(&config, &networks, buffer).policy_gradient);
    assert!(distance(&one, &other) < 1e-5, "the unit of the reward does not matter");
}
