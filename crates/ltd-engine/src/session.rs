//! One sequence being generated.

use tch::Tensor;

use crate::kv_cache::KvCache;
use crate::{Result, Sampler};

/// A sequence: its tokens, the caches of both models, and the features that the draft has not read yet.
pub struct Session {
    /// Tokens whose keys and values the target has cached.
    pub(crate) tokens: Vec<u32>,
    pub(crate) root: u32,
    pub(crate) target_cache: KvCache,
    pub(crate) draft_cache: KvCache,
    /// Features of the positions from the draft cache's end to the target cache's, `[rows, 3 * hidden]`.
    pub(crate) features: Option<Tensor>,
    pub(crate) capacity: usize,
    /// Chooses the target's tokens.
    pub(crate) sampler: Sampler,
}

impl Session {
    /// All tokens whose keys and values are cached: the prompt and what was appended since.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The target's last token, not yet cached: root of the next draft tree.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// Cached tokens, `L`: the root's position.
    pub fn context_length(&self) -> usize {
        self.tokens.len()
    }

    /// Who chooses the target's tokens from its logits.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Whether the cache has no room for the root token.
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.capacity
    }

    /// Features that the next root expansion will read, `[rows, 3 * hidden]` row-major, with the row length.
    /// For inspection and dumps.
    pub fn pending_features(&self) -> Result<Option<(Vec<f32>, usize)>> {
        let Some(features) = &self.features else { return Ok(None) };
        let width = features.size()[1] as usize;
        Ok(Some((Vec::try_from(features.f_contiguous()?.view(-1))?, width)))
    }
}
