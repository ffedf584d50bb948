//! Which layers of a target go to which device.

use std::ops::Range;

use super::config::{BlockConfig, TargetConfig};

/// Consecutive layers for each of `devices` devices, so that the largest share of weights is as
/// small as it can be. The first device also holds the embedding, the last one the output
/// projection. Every device gets a layer if there are enough.
pub(crate) fn split_layers(config: &TargetConfig, devices: usize) -> Vec<Range<i64>> {
    let vocabulary = config.vocabulary * config.block.hidden;
    let layer = layer_weights(&config.block, config.block.hidden);
    let devices = devices as i64;
    let mut start = 0;
    // What is left is shared evenly among the devices that are left, each in its turn.
    let shares = (0..devices).map(|device| {
        let first = if device == 0 { vocabulary } else { 0 };
        let rest = first + (config.layers - start) * layer + vocabulary;
        let share = rest / (devices - device);
        let others = devices - device - 1;
        let most = (config.layers - start - others).max(0);
        let count =
            if others == 0 { most } else { ((share - first + layer / 2) / layer).clamp(most.min(1), most) };
        let range = start..start + count;
        start += count;
        range
    });
    shares.collect()
}

/// Weights of one layer: attention, whose queries, keys and values read `input` numbers, and the
/// three matrices of the MLP.
pub(crate) fn layer_weights(block: &BlockConfig, input: i64) -> i64 {
    let BlockConfig { hidden, intermediate, heads, kv_heads, head_dim, .. } = *block;
    head_dim * (input * (heads + 2 * kv_heads) + hidden * heads) + 3 * hidden * intermediate
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::config::{RopeConfig, RopeScaling};

    fn target(layers: i64, hidden: i64, vocabulary: i64) -> TargetConfig {
        let block = BlockConfig {
            hidden,
            intermediate: 3 * hidden,
            heads: hidden / 64,
            kv_heads: 1,
            head_dim: 64,
            rms_norm_eps: 1e-6,
            rope: RopeConfig { theta: 1e4, scaling: RopeScaling::None },
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            head_norms: false,
        };
        TargetConfig {
            block,
            vocabulary,
            layers,
            max_positions: 1024,
            sliding_window: None,
            tied_embeddings: false,
        }
    }

    #[test]
    fn devices_get_equal_shares_of_the_weights_not_of_the_layers() {
        assert_eq!(split_layers(&target(32, 4096, 0), 2), [0..16, 16..32]);
        // The vocabulary weighs as much as three layers, at both ends.
        let config = target(30, 4096, 0);
        let vocabulary = 3 * layer_weights(&config.block, 4096) / config.block.hidden;
        assert_eq!(split_layers(&target(30, 4096, vocabulary), 3), [0..9, 9..21, 21..30]);
    }

    proptest! {
        #[test]
        fn every_layer_is_on_one_device_and_no_device_is_idle(
            layers in 6i64..100, devices in 1usize..9, vocabulary in 1i64..300_000,
        ) {
            let splits = split_layers(&target(layers, 1024, vocabulary), devices);
            prop_assert_eq!(splits.len(), devices);
            prop_assert_eq!((splits[0].start, splits[devices - 1].end), (0, layers));
            prop_assert!(splits.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(devices as i64 > layers || splits.iter().all(|split| !split.is_empty()));
        }
    }
}
