//! GAE and one whole update equal Stable-Baselines3's (`scripts/fixtures/sb3_ppo.py` made the
//! fixture).

use std::collections::HashMap;
use std::path::Path;

use ltd_env::stream;
use ltd_run::config::{NetArch, PpoConfig};
use ltd_train::ppo::{ActorCritic, Adam, RolloutBuffer, advantages_and_returns, update};
use ndarray::{Array1, Array2};
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

/// Sums in another order, in f32.
const TOLERANCE: f64 = 1e-5;

struct Fixture {
    tensors: HashMap<String, (Vec<i64>, Vec<f32>)>,
    expected: serde_json::Value,
}

impl Fixture {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/sb3-ppo");
        let bytes = std::fs::read(folder.join("update.safetensors")).expect("the fixture");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensors = file.iter().map(|(name, view)| {
            let shape = view.shape().iter().map(|&size| size as i64).collect();
            let words = view.data().chunks_exact(4).map(|word| word.try_into().expect("four bytes"));
            (name.to_owned(), (shape, words.map(f32::from_le_bytes).collect()))
        });
        let text = std::fs::read_to_string(folder.join("update.json")).expect("the fixture");
        Self { tensors: tensors.collect(), expected: serde_json::from_str(&text).expect("JSON") }
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    fn column(&self, name: &str) -> Array1<f32> {
        Array1::from_vec(self.values(name).to_vec())
    }
}

fn assert_close(name: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{name}: {found}, Stable-Baselines3 has {expected}");
}

#[test]
fn advantages_equal_stable_baselines3s() {
    let fixture = Fixture::read();
    let starts: Vec<bool> = fixture.values("episode_starts").iter().map(|&start| start == 1.0).collect();
    let (rewards, values) = (fixture.values("rewards"), fixture.values("values"));
    let (advantages, returns) = advantages_and_returns(rewards, values, &starts, 0.7, false, 0.9, 0.95);
    for (name, found) in [("advantages", advantages), ("returns", returns)] {
        for (found, expected) in found.iter().zip(fixture.values(name)) {
            assert_close(name, f64::from(*found), f64::from(*expected));
        }
    }
}

#[test]
fn a_whole_update_equals_stable_baselines3s() {
    let fixture = Fixture::read();
    let steps = fixture.values("rewards").len();
    let config = PpoConfig {
        n_steps: steps,
        batch_size: 16,
        n_epochs: 3,
        net_arch: NetArch { pi: vec![8], vf: vec![8, 5] },
        ..PpoConfig::default()
    };
    let mut networks = ActorCritic::new(6, 4, &config.net_arch, &mut stream(0, "overwritten"));
    let mut before = networks.named_parameters();
    for (name, parameter) in &mut before {
        let (shape, values) = &fixture.tensors[&format!("before.{name}")];
        *parameter = Tensor::from_slice(values).view(shape.as_slice());
    }
    networks.load(&before).expect("the same shapes");
    let buffer = RolloutBuffer {
        observations: Array2::from_shape_vec((steps, 6), fixture.values("observations").to_vec())
            .expect("shape"),
        actions: fixture.column("actions").mapv(|action| action as i64),
        values: fixture.column("values"),
        log_probs: fixture.column("log_probs"),
        advantages: fixture.column("advantages"),
        returns: fixture.column("returns"),
        every_action: None,
    };
    let orders: Vec<Vec<usize>> = serde_json::from_value(fixture.expected["orders"].clone()).expect("orders");
    let mut orders = orders.into_iter();
    let mut adam = Adam::new(&networks, config.adam_eps);
    let mut next_order = || orders.next().expect("an order");
    let stats = update(&config, &mut networks, &mut adam, &buffer, 5e-3, &mut next_order, &|| false);
    let stats = stats.expect("an update");

    let logged = |name: &str| fixture.expected["logged"][name].as_f64().expect("a number");
    assert!(logged("clip_fraction") > 0.05, "the fixture must exercise the clipping");
    for (name, found) in [
        ("approx_kl", stats.approx_kl),
        ("clip_fraction", stats.clip_fraction),
        ("entropy_loss", stats.entropy_loss),
        ("policy_gradient_loss", stats.policy_gradient_loss),
        ("value_loss", stats.value_loss),
        ("loss", stats.loss),
        ("explained_variance", stats.explained_variance),
        ("n_updates", stats.epochs as f64),
    ] {
        assert_close(name, found, logged(name));
    }
    let norms: Vec<f64> = serde_json::from_value(fixture.expected["grad_norms"].clone()).expect("norms");
    assert!(norms.iter().any(|&norm| norm > config.max_grad_norm), "the fixture must exercise the limit");
    assert_close("grad_norm", stats.grad_norm, norms.iter().sum::<f64>() / norms.len() as f64);
    for (name, parameter) in networks.named_parameters() {
        let (shape, values) = &fixture.tensors[&format!("after.{name}")];
        let expected = Tensor::from_slice(values).view(shape.as_slice());
        let error = (parameter - expected).abs().max().to_kind(Kind::Double).double_value(&[]);
        assert!(error < TOLERANCE, "{name} differs by {error}");
    }
}
