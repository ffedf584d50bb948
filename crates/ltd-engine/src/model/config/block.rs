//! Dimensions of a decoder layer.

use super::rope::RopeConfig;

/// Dimensions that a target's layers and an EAGLE-3 head's layer share.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each says of one kind of tensor whether it is there")]
pub struct BlockConfig {
    /// Width of the residual stream.
    pub hidden: i64,
    /// Inner width of the MLP.
    pub intermediate: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Whether the q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether each query and key head is normed before the rotation (Qwen3).
    pub head_norms: bool,
}
