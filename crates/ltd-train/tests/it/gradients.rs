//! The gradient of the loss equals LibTorch's automatic one, and does not depend on the number of
//! threads.

use ltd_env::stream;
use ltd_run::config::{NetArch, PpoConfig};
use ltd_train::ppo::{ActorCritic, Adam, EveryAction, Loss, RolloutBuffer, UpdateStats, ppo_loss, update};
use ndarray::{Array1, Array2};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Reduction, Tensor};

/// Sums in another order, in f32.
const TOLERANCE: f64 = 1e-4;
const OBSERVATION: usize = 9;
const ACTIONS: usize = 5;
/// More than one block of rows, the last of them not full.
const STEPS: usize = 150;

fn networks(name: &str) -> ActorCritic {
    let arch = NetArch { pi: vec![24, 16], vf: vec![20] };
    let mut networks = ActorCritic::new(OBSERVATION, ACTIONS, &arch, &mut stream(7, name));
    // A fresh action head is nearly uniform, and biases are zero.
    let mut random = stream(8, name);
    let mut tensors = networks.named_parameters();
    for (name, tensor) in &mut tensors {
        let values = vec_of(tensor);
        let factor = if name == "policy.2.weight" { 60.0 } else { 1.0 };
        let values: Vec<f32> =
            values.iter().map(|value| value * factor + random.random_range(-0.1..0.1f32)).collect();
        *tensor = Tensor::from_slice(&values).view_as(tensor);
    }
    networks.load(&tensors).expect("the same shapes");
    networks
}

fn vec_of(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().reshape(-1)).expect("numbers")
}

/// A rollout of a policy that is not far from `networks`: some ratios leave the clip range.
fn rollout(networks: &ActorCritic, every: bool, random: &mut ChaCha8Rng) -> RolloutBuffer {
    let mut normal =
        |count: usize| -> Vec<f32> { (0..count).map(|_| random.random_range(-1.7..1.7f32)).collect() };
    let observations = normal(STEPS * OBSERVATION);
    let log_probs = networks.log_probs(&observations);
    let moved: Vec<f32> = log_probs.iter().zip(normal(STEPS * ACTIONS)).map(|(a, b)| a + 0.2 * b).collect();
    let moved = Array2::from_shape_vec((STEPS, ACTIONS), moved).expect("shape");
    let moved = Array2::from_shape_fn((STEPS, ACTIONS), |(step, action)| {
        moved[[step, action]] - moved.row(step).mapv(f32::exp).sum().ln()
    });
    let advantages = Array2::from_shape_vec((STEPS, ACTIONS), normal(STEPS * ACTIONS)).expect("shape");
    let returns = Array1::from_vec(normal(STEPS));
    let actions: Vec<usize> = (0..STEPS).map(|_| random.random_range(0..ACTIONS)).collect();
    let taken = |table: &Array2<f32>| -> Array1<f32> {
        actions.iter().enumerate().map(|place| table[[place.0, *place.1]]).collect()
    };
    RolloutBuffer {
        actions: actions.iter().map(|&action| action as i64).collect(),
        values: Array1::from_vec(networks.values(&observations)),
        log_probs: taken(&moved),
        advantages: taken(&advantages),
        returns,
        every_action: every.then_some(EveryAction { log_probs: moved, advantages }),
        observations: Array2::from_shape_vec((STEPS, OBSERVATION), observations).expect("shape"),
    }
}

/// The loss and its gradient by LibTorch.
fn automatic(config: &PpoConfig, networks: &ActorCritic, buffer: &RolloutBuffer, rows: &[usize]) -> Loss {
    let named = networks.named_parameters();
    let parameters: Vec<(&str, Tensor)> =
        named.iter().map(|(name, tensor)| (name.as_str(), tensor.set_requires_grad(true))).collect();
    let of = |prefix: &str| -> Vec<&Tensor> {
        parameters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, tensor)| tensor).collect()
    };
    let (policy, value) = (of("policy"), of("value"));
    let forward = |layers: &[&Tensor], inputs: &Tensor| {
        let mut x = inputs.shallow_clone();
        for (number, layer) in layers.chunks(2).enumerate() {
            x = x.linear(layer[0], Some(layer[1]));
            x = if 2 * number + 2 < layers.len() { x.relu() } else { x };
        }
        x
    };
    let index = Tensor::from_slice(&rows.iter().map(|&row| row as i64).collect::<Vec<_>>());
    let table = |table: &Array2<f32>| {
        let all = Tensor::from_slice(&table.iter().copied().collect::<Vec<_>>());
        all.view([-1, table.ncols() as i64]).index_select(0, &index)
    };
    let column = |column: &Array1<f32>| Tensor::from_slice(&column.to_vec()).index_select(0, &index);
    let observations = table(&buffer.observations);
    let log_probs = forward(&policy, &observations).log_softmax(-1, Kind::Float);
    let values = forward(&value, &observations).squeeze_dim(1);
    let sum = |tensor: Tensor| tensor.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);

    let (log_ratio, mut advantages, weights) = match &buffer.every_action {
        None => {
            let actions = Tensor::from_slice(&buffer.actions.to_vec()).index_select(0, &index);
            let taken = log_probs.gather(1, &actions.unsqueeze(1), false).squeeze_dim(1);
            (taken - column(&buffer.log_probs), column(&buffer.advantages), None)
        }
        Some(every) => {
            let acted = table(&every.log_probs);
            (&log_probs - &acted, table(&every.advantages), Some(acted.exp()))
        }
    };
    let mean = |values: &Tensor| match &weights {
        None => values.mean(Kind::Float),
        Some(weights) => sum(values * weights).mean(Kind::Float),
    };
    if config.normalize_advantage {
        advantages = if weights.is_none() {
            (&advantages - advantages.mean(Kind::Float)) / (advantages.std(true) + 1e-8)
        } else {
            &advantages / (mean(&advantages.square()).sqrt() + 1e-8)
        };
    }
    let ratio = log_ratio.exp();
    let clipped = ratio.clamp(1.0 - config.clip_range, 1.0 + config.clip_range);
    let policy_loss = -mean(&(&advantages * &ratio).minimum(&(&advantages * clipped)));
    let value_loss = values.mse_loss(&column(&buffer.returns), Reduction::Mean);
    let entropy = sum(log_probs.exp() * &log_probs).mean(Kind::Float);
    let total = &policy_loss + &entropy * config.ent_coef + &value_loss * config.vf_coef;
    total.backward();
    let gradient =
        |parameters: &[&Tensor]| parameters.iter().flat_map(|parameter| vec_of(&parameter.grad())).collect();
    let outside = (&ratio - 1.0).abs().gt(config.clip_range).to_kind(Kind::Float);
    Loss {
        total: total.double_value(&[]),
        policy: policy_loss.double_value(&[]),
        value: value_loss.double_value(&[]),
        entropy: entropy.double_value(&[]),
        approx_kl: mean(&((&ratio - 1.0) - &log_ratio)).double_value(&[]),
        clip_fraction: mean(&outside).double_value(&[]),
        policy_gradient: gradient(&policy),
        value_gradient: gradient(&value),
    }
}

#[test]
fn gradients_equal_automatic_ones() {
    let mut random = stream(9, "rollouts");
    for every in [false, true] {
        for normalize_advantage in [false, true] {
            let networks = networks("acted");
            let buffer = rollout(&networks, every, &mut random);
            let config = PpoConfig { normalize_advantage, ent_coef: 0.05, ..PpoConfig::default() };
            for count in [1, 32, 45, STEPS] {
                let rows = &buffer.shuffled(&mut random)[..count];
                if count == 1 && normalize_advantage && !every {
                    // One advantage has no deviation, and stays: nothing that LibTorch would do.
                    let plain = PpoConfig { normalize_advantage: false, ..config.clone() };
                    let [one, other] = [&config, &plain].map(|it| ppo_loss(it, &networks, &buffer, rows));
                    assert_eq!(one, other);
                    continue;
                }
                let found = ppo_loss(&config, &networks, &buffer, rows);
                let expected = automatic(&config, &networks, &buffer, rows);
                if count == STEPS {
                    let outside = found.clip_fraction;
                    assert!((0.1..0.9).contains(&outside), "the clipping is exercised: {outside}");
                }
                for (name, found, expected) in [
                    ("loss", found.total, expected.total),
                    ("policy loss", found.policy, expected.policy),
                    ("value loss", found.value, expected.value),
                    ("entropy", found.entropy, expected.entropy),
                    ("KL", found.approx_kl, expected.approx_kl),
                    ("clip fraction", found.clip_fraction, expected.clip_fraction),
                ] {
                    let error = (found - expected).abs();
                    assert!(error < TOLERANCE * expected.abs().max(0.1), "{name}: {found}, {expected}");
                }
                for (name, found, expected) in [
                    ("policy", found.policy_gradient, expected.policy_gradient),
                    ("value", found.value_gradient, expected.value_gradient),
                ] {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = f64::from((found - expected).abs() / largest);
                        assert!(error < TOLERANCE, "{name}, {count} steps: {found}, {expected}");
                    }
                }
            }
        }
    }
}

/// Parameters after an update with so many threads.
fn updated(threads: usize, every: bool) -> (ActorCritic, UpdateStats) {
    let mut random = stream(10, "updates");
    let mut networks = networks("acted");
    let buffer = rollout(&networks, every, &mut random);
    let config = PpoConfig { batch_size: 75, n_epochs: 4, ..PpoConfig::default() };
    let mut adam = Adam::new(&networks, config.adam_eps);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let stats = pool.install(|| {
        let orders = || buffer.shuffled(&mut random);
        update(&config, &mut networks, &mut adam, &buffer, 1e-2, orders, &|| false)
    });
    (networks, stats.expect("an update"))
}

#[test]
fn an_update_has_the_same_bits_whatever_the_number_of_threads() {
    for every in [false, true] {
        let one = updated(1, every);
        for threads in [2, 3] {
            assert_eq!(updated(threads, every), one);
        }
    }
}
