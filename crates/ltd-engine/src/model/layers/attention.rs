//! Grouped-query attention over a preallocated cache.

use tch::Tensor;

use super::linear::Linear;
use super::rope::Rotation;
use crate::Result;
use crate::kv_cache::LayerCache;
use crate::model::config::BlockConfig;
use crate::model::weights::Weights;

const ROWS: i64 = 0;
const HEADS: i64 = 1;

/// Which cached positions each row may see.
pub(crate) enum AttentionMask {
    /// One row that sees everything up to itself.
    Everything,
    /// `[group * n, past + new]` in the model's dtype: 0 where a row may look, minus infinity where not; repeated
    /// for the `group` query heads that share a key head.
    Additive(Tensor),
}

impl AttentionMask {
    /// The mask of rows that all see `past` positions, and of the `new` ones after them what `sees` (row-major,
    /// one row of `new` flags each) says.
    pub(crate) fn over_past(past: i64, sees: &[bool], new: i64, config: &BlockConfig, like: &Tensor) -> Self {
        let additive: Vec<f32> =
            sees.iter().map(|&sees| if sees { 0.0 } else { f32::NEG_INFINITY }).collect();
        let among_new =
            Tensor::from_slice(&additive).view([-1, new]).to_device(like.device()).to_kind(like.kind());
        let everything = Tensor::zeros([among_new.size()[0], past], (like.kind(), like.device()));
        let mask = Tensor::cat(&[everything, among_new], 1);
        Self::Additive(mask.repeat([config.heads / config.kv_heads, 1]))
    }

    /// The mask of `n` new positions in sequence.
    pub(crate) fn causal(past: i64, n: i64, config: &BlockConfig, like: &Tensor) -> Self {
        if n == 1 {
            return Self::Everything;
        }
        let sees: Vec<bool> = (0..n * n).map(|i| i % n <= i / n).collect();
        Self::over_past(past, &sees, n, config, like)
    }
}

/// Projections of one attention layer; q, k and v packed in one product.
pub(crate) struct Attention {
    qkv: Linear,
    output: Linear,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
}

impl Attention {
    /// `input` is the width that q, k and v read: `hidden` in a target, `2 * hidden` in an EAGLE-3 head.
    pub(crate) fn load(weights: &mut Weights, name: &str, config: &BlockConfig, input: i64) -> Result<Self> {
        let BlockConfig { hidden, heads, kv_heads, head_dim, .. } = *config;
        let q = weights.take(&format!("{name}.q_proj.weight"), &[heads * head_dim, input])?;
        let k = weights.take(&format!("{name}.k_proj.weight"), &[kv_heads * head_dim, input])?;
        let v = weights.take(&format!("{name}.v_proj.weight"), &[kv_heads * head_dim, input])?;
        let output = weights.take(&format!("{name}.o_proj.weight"), &[hidden, heads * head_dim])?;
        let qkv = Linear::new(Tensor::f_cat(&[q, k, v], 0)?);
        Ok(Self { qkv, output: Linear::new(output), heads, kv_heads, head_dim })
    }

    /// `residual + attention(x)`, `[n, input] -> [n, hidden]`. Writes the rows' keys and values at `past..past + n` of the cache and attends
    /// to `0..past + n` under the mask.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        rotation: &Rotation,
        mask: &AttentionMask,
        cache: &LayerCache,
        past: i64,
    ) -> Tensor {
        let n = x.size()[0];
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let qkv = self.qkv.forward(x).view([n, heads + 2 * kv_heads, head_dim]);
        let rotated = rotation.apply(&qkv.narrow(HEADS, 0, heads + kv_heads));
        let k = rotated.narrow(HEADS, heads, kv_heads).transpose(ROWS, HEADS);
        let v = qkv.narrow(HEADS, heads + kv_heads, kv_heads).transpose(ROWS, HEADS);
        cache.write(past, &k, &v);

        // Query heads that share a key head become rows of one problem: no copy of the cache per head.
        let group = heads / kv_heads;
        let q = rotated.narrow(HEADS, 0, heads).transpose(ROWS, HEADS).reshape([
            1,
            kv_heads,
            group * n,
            head_dim,
        ]);
        let (keys, values) = cache.read(past + n);
        let mask = match mask {
            AttentionMask::Everything => None,
            AttentionMask::Additive(mask) => Some(mask),
        };
        let attended = Tensor::scaled_dot_product_attention(
            &q,
            &keys.unsqueeze(0),
            &values.unsqueeze(0),
            mask,
            0.0,
            false,
            None,
            false,
        );
        let attended = attended.view([heads, n, head_dim]).transpose(0, 1).reshape([n, heads * head_dim]);
        self.output.forward_plus(&attended, residual)
    }
}
