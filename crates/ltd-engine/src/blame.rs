//! Which model is to blame for scores that are not numbers. The draft computes them, from what the
//! target gives it.

use tch::Tensor;

use crate::model::first_not_finite;
use crate::{Engine, Error, Result};

/// What the draft has read for some scores.
pub(crate) struct Read<'r> {
    pub(crate) tokens: &'r [u32],
    /// The target's features of the positions before these tokens, and the first of these
    /// positions; none where the draft has read its own output.
    pub(crate) features: Option<(usize, &'r Tensor)>,
}

impl Engine {
    /// Fails if the draft's scores of a level are not numbers; `root` is the position of the tree
    /// that an index belongs to. Only then it is asked whose fault it is.
    pub(crate) fn check_scores(
        &self,
        log_probs: &[f32],
        depth: usize,
        root: impl FnOnce(usize) -> usize,
        read: &Read,
    ) -> Result<()> {
        let Some(index) = log_probs.iter().position(|value| value.is_nan()) else { return Ok(()) };
        let position = root(index);
        // First the target's vectors, from which its features are made: on a CPU, what is not a
        // number spreads to rows that do not see it.
        let embedding = self.target.embedding();
        if read.features.is_some() || self.draft.embedding().is(embedding) {
            let vectors = embedding.forward(&self.token_tensor(read.tokens)?)?;
            if let Some(row) = first_not_finite(&vectors)? {
                let position = read.features.map_or(position + depth, |(first, _)| first + 1 + row);
                return Err(Error::EmbeddingNotANumber { token: read.tokens[row], position });
            }
        }
        if let Some((first, features)) = read.features
            && let Some(row) = first_not_finite(features)?
        {
            return Err(Error::FeaturesNotANumber { position: first + row });
        }
        Err(Error::NotANumber { position, depth })
    }
}
