//! Every supported family equals Hugging Face transformers on small random models
//! (`scripts/fixtures/families.py`).

use std::ops::Range;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::{AttentionMask, LogitRows, Rows, TargetConfig, TargetModel, split_layers};
use crate::device::resolve;
use crate::placement::Share;
use crate::simulated;

/// f32 through seven layers of other kernels; logits have a spread of 1.5, features of 5.
const TOLERANCE: f64 = 1e-4;
/// Names that the folders of the fixture must have: a family that is not there is not tested.
const FAMILIES: [&str; 11] = [
    "llama-bias",
    "llama-dynamic",
    "llama-linear",
    "llama3",
    "llama3-tied",
    "mistral",
    "mistral-window",
    "qwen2",
    "qwen3",
    "qwen3-tied",
    "vicuna",
];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/families").join(family)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_device(Device::Cpu) - b).abs().max().double_value(&[])
}

fn on_cpu(parts: usize) -> impl FnOnce(&TargetConfig) -> Vec<Share> {
    move |config| Share::on_cpu(split_layers(config, parts))
}

/// The largest difference of logits and of features, over a prefill and cached steps.
fn differences(
    family: &str,
    place: impl FnOnce(&TargetConfig) -> Vec<Share>,
    change: impl FnOnce(&mut TargetConfig),
) -> (f64, f64) {
    let folder = folder(family);
    let mut config = TargetConfig::load(&folder).expect("a supported configuration");
    change(&mut config);
    let capacity = config.max_positions;
    let shares = place(&config);
    let model = TargetModel::load(&folder, config, capacity, &shares, Kind::Float).expect("the target loads");
    let expected = Tensor::read_safetensors(folder.join("expected.safetensors")).expect("the fixture");
    let find = |name: String| {
        &expected.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("{name} is missing")).1
    };
    let mut cache = model.new_cache(capacity).expect("a cache");
    let mut worst = (0.0f64, 0.0f64);
    for chunk in 0..4 {
        let tokens = token_ids(find(format!("{chunk}.tokens")));
        let (past, count) = (cache.len(), tokens.len() as i64);
        let positions: Vec<i64> = (past..past + count).collect();
        let mask = &AttentionMask::causal(past, count);
        let rows = Rows { tokens: &tokens, positions: &positions, past, mask };
        let output = model.forward(&rows, &[], &cache, LogitRows::All).expect("a forward");
        cache.advance(count);
        worst.0 = worst.0.max(largest_difference(&output.logits, find(format!("{chunk}.logits"))));
        worst.1 = worst.1.max(largest_difference(&output.features, find(format!("{chunk}.features"))));
    }
    worst
}

/// Tokens of a fixture.
pub(super) fn token_ids(tensor: &Tensor) -> Vec<u32> {
    let ids = Vec::<i64>::try_from(tensor.to_kind(Kind::Int64)).expect("a row of tokens");
    ids.into_iter().map(|id| id as u32).collect()
}

#[test]
fn logits_and_features_equal_those_of_transformers() {
    for family in FAMILIES {
        for devices in [1, 3] {
            let (logits, features) = differences(family, on_cpu(devices), |_| {});
            assert!(logits < TOLERANCE, "{family} on {devices}: logits differ by {logits}");
            assert!(features < TOLERANCE, "{family} on {devices}: features differ by {features}");
        }
    }
}

#[test]
fn they_do_on_cuda_devices() {
    simulated::holds("model::families::case_on_devices");
}

#[test]
#[ignore = "a case"]
fn case_on_devices() {
    for family in FAMILIES {
        for names in [&["cuda:1"][..], &["cuda:0", "cuda:1"]] {
            let place = |config: &TargetConfig| {
                let layers = split_layers(config, names.len());
                let share = |(&name, layers): (&&str, Range<i64>)| {
                    let device = resolve(name).expect("a simulated device");
                    Share { name: name.to_owned(), device, layers }
                };
                names.iter().zip(layers).map(share).collect()
            };
            let (logits, features) = differences(family, place, |_| {});
            assert!(logits < TOLERANCE, "{family} on {names:?}: logits differ by {logits}");
            assert!(features < TOLERANCE, "{family} on {names:?}: features differ by {features}");
        }
    }
}

#[test]
fn devices_without_a_layer_hold_embedding_and_output_only() {
    let ends = |config: &TargetConfig| {
        let layers = config.layers;
        Share::on_cpu([0..0, 0..3, 3..layers, layers..layers])
    };
    for family in ["llama3", "llama3-tied", "qwen3"] {
        let (logits, features) = differences(family, ends, |_| {});
        assert!(logits < TOLERANCE && features < TOLERANCE, "{family}: {logits}, {features}");
    }
}

#[test]
fn the_fixtures_tell_a_wrong_rotation_apart() {
    for family in ["llama3", "llama-linear"] {
        let unscaled = |config: &mut TargetConfig| config.block.rope.scaling = super::RopeScaling::None;
        let (logits, _) = differences(family, on_cpu(1), unscaled);
        assert!(logits > 100.0 * TOLERANCE, "{family}: {logits}");
    }
}
