//! Heads in every published layout compute what their description says
//! (`scripts/fixtures/heads.py`).

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::families::token_ids;
use super::{AttentionMask, DraftConfig, DraftModel, Rows, TargetConfig, TargetModel};
use crate::device::resolve;
use crate::kv_cache::KvCache;
use crate::placement::Share;
use crate::simulated;

/// f32 through one layer of other kernels; logits have a spread of 1.5.
const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// The largest difference of the logits of the root expansion, and of one row more.
fn difference(layout: &str, device: Device) -> f64 {
    let kind = Kind::Float;
    let target = fixture("families/vicuna");
    let config = TargetConfig::load(&target).expect("a configuration");
    let positions = config.max_positions;
    let whole = Share::on_cpu(std::iter::once(0..config.layers));
    let target = TargetModel::load(&target, config, positions, &whole, kind).expect("the target");
    let folder = fixture("heads").join(layout);
    let config = DraftConfig::load(&folder).expect("a configuration");
    let draft =
        DraftModel::load(&folder, config, target.embedding(), positions, device, kind).expect("a head");
    let block = &draft.config().block;
    let cache = KvCache::new(1, block.kv_heads, positions, block.head_dim, kind, device).expect("a cache");
    let expected = Tensor::read_safetensors(folder.join("expected.safetensors")).expect("the fixture");
    let find = |name: &str| &expected.iter().find(|(found, _)| found == name).expect("a tensor").1;
    let tokens: Vec<u32> = token_ids(find("tokens"));
    let count = tokens.len() as i64;
    let hidden = draft.project(&find("features").to_device(device)).expect("hidden states");
    let positions: Vec<i64> = (0..count).collect();
    let rows =
        Rows { tokens: &tokens, positions: &positions, past: 0, mask: &AttentionMask::causal(0, count) };
    let output = draft.forward(&rows, &hidden, None, &cache).expect("a forward");
    let mut largest = 0f64;
    let mut compare = |output: &Tensor, name: &str| {
        let logits = draft.logits(output).expect("logits").to_device(Device::Cpu);
        assert_eq!(logits.size(), find(name).size());
        largest = largest.max((logits - find(name)).abs().max().double_value(&[]));
    };
    compare(&output, "logits");
    let mask = &AttentionMask::causal(count, 1);
    let row = Rows { tokens: &tokens[..1], positions: &[count], past: count, mask };
    let output = draft.forward(&row, &output, Some(&[count - 1]), &cache).expect("a forward");
    compare(&output, "next_logits");
    largest
}

fn assert_all_layouts(device: Device) {
    for layout in ["official", "specforge", "angelslim", "speculators", "specforge-3.1", "speculators-3.1"] {
        let difference = difference(layout, device);
        assert!(difference < TOLERANCE, "{layout} on {device:?}: logits differ by {difference}");
    }
}

#[test]
fn every_layout_of_a_head_computes_what_its_description_says() {
    assert_all_layouts(Device::Cpu);
}

#[test]
fn they_do_on_a_cuda_device() {
    simulated::holds("model::heads::case_on_a_device");
}

#[test]
#[ignore = "a case"]
fn case_on_a_device() {
    assert_all_layouts(resolve("cuda:1").expect("a simulated device"));
}
