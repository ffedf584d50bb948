//! Draft trees at many positions of a known sequence: what recording needs, at the price of few large forwards.

use tch::Tensor;

use crate::cycle::check_numbers;
use crate::kv_cache::KvCache;
use crate::model::AttentionMask;
use crate::tree::DraftTree;
use crate::{Engine, Error, Result};

const ROWS: i64 = 0;

/// A tree that grows beside others.
struct Growing {
    tree: DraftTree,
    /// Row of the last level's hidden states from which each frontier node was proposed.
    frontier_rows: Vec<i64>,
    /// Tree rows of each frontier node's ancestors.
    frontier_ancestors: Vec<Vec<usize>>,
}

impl Engine {
    /// Grows the draft trees of `depth` levels beyond the root expansion at the positions `first..tokens.len()`,
    /// each with the token there as its root and all tokens before it as its context, and hands each to `visit`
    /// with its position. They are the trees that decoding would grow there, `batch` at a time.
    ///
    /// # Errors
    /// If the sequence is empty, does not fit the cache or has unknown tokens, or if `visit` fails.
    pub fn trees_along<E: From<Error>>(
        &self,
        tokens: &[u32],
        first: usize,
        depth: usize,
        batch: usize,
        mut visit: impl FnMut(usize, DraftTree) -> Result<(), E>,
    ) -> Result<(), E> {
        if depth > self.max_depth() {
            return Err(Error::DepthLimit { depth: self.max_depth() }.into());
        }
        // The first token has no features before it, hence no tree.
        let first = first.max(1);
        if tokens.len() <= first {
            return Ok(());
        }
        let (context, batch) = (&tokens[..tokens.len() - 1], batch.max(1));
        self.check_prompt(context)?;
        let features = self.read_prompt(context, &mut self.new_caches().0).features;
        let tree_rows = batch * self.beam_width() * depth;
        let mut cache = self.draft_cache(tokens.len() + tree_rows);
        for start in (first..tokens.len()).step_by(batch) {
            let roots: Vec<usize> = (start..tokens.len().min(start + batch)).collect();
            let trees = self.grow(tokens, &features, &roots, depth, &mut cache)?;
            for (root, growing) in roots.into_iter().zip(trees) {
                visit(root, growing.tree)?;
            }
        }
        Ok(())
    }

    /// Trees at consecutive roots. The stable rows of the cache are extended up to the last root; the trees' rows
    /// lie after them, and the next call overwrites them.
    fn grow(
        &self,
        tokens: &[u32],
        features: &Tensor,
        roots: &[usize],
        depth: usize,
        cache: &mut KvCache,
    ) -> Result<Vec<Growing>> {
        let width = self.beam_width();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        let read = cache.len() as usize;
        let new = features.narrow(ROWS, read as i64, (last - read) as i64);
        let hidden = self.draft_stable_rows(&tokens[read + 1..=last], &new, cache);
        let mut hidden = hidden.narrow(ROWS, (first - 1 - read) as i64, roots.len() as i64);
        let level = self.draft.continuations(&self.draft.logits(&hidden), width)?;
        check_numbers(&level.log_probs, 0)?;
        let rows = level.log_probs.chunks_exact(width).zip(level.tokens.chunks_exact(width));
        let mut trees: Vec<Growing> = rows
            .zip(0..)
            .map(|((log_probs, tokens), row)| Growing {
                tree: DraftTree::new(log_probs, tokens.to_vec()),
                frontier_rows: vec![row; width],
                frontier_ancestors: vec![Vec::new(); width],
            })
            .collect();
        for made in 0..depth {
            let (past, rows) = (last + made * roots.len() * width, roots.len() * width);
            let columns = past + rows - first;
            let mut sees = vec![false; rows * columns];
            let mut positions = Vec::with_capacity(rows);
            let mut frontier_tokens = Vec::with_capacity(rows);
            let mut parents = Vec::with_capacity(rows);
            for (number, (growing, &root)) in trees.iter_mut().zip(roots).enumerate() {
                positions.extend(std::iter::repeat_n((root + made) as i64, width));
                frontier_tokens
                    .extend(growing.tree.frontier().iter().map(|&node| growing.tree.tokens()[node]));
                parents.extend_from_slice(&growing.frontier_rows);
                for (node, ancestors) in growing.frontier_ancestors.iter_mut().enumerate() {
                    let row = number * width + node;
                    ancestors.push(past + row);
                    let sees = &mut sees[row * columns..][..columns];
                    // Its own part of the sequence, its ancestors and itself.
                    sees[..root - first].fill(true);
                    for &ancestor in &*ancestors {
                        sees[ancestor - first] = true;
                    }
                }
            }
            let input = hidden.index_select(ROWS, &Tensor::from_slice(&parents).to_device(self.device));
            let mask = AttentionMask::tree(first as i64, sees);
            let frontier_tokens = self.token_tensor(&frontier_tokens);
            hidden = self.draft.forward(&frontier_tokens, &input, &positions, &mask, cache, past as i64);
            let level = self.draft.continuations(&self.draft.logits(&hidden), width)?;
            check_numbers(&level.log_probs, made + 1)?;
            let of_trees = level.log_probs.chunks_exact(width * width);
            for (number, (growing, (log_probs, tokens))) in
                trees.iter_mut().zip(of_trees.zip(level.tokens.chunks_exact(width * width))).enumerate()
            {
                let start = growing.tree.scores().len();
                growing.tree.push_level(log_probs, tokens);
                let parents: Vec<usize> =
                    growing.tree.frontier().iter().map(|node| (node - start) / width).collect();
                growing.frontier_ancestors =
                    parents.iter().map(|&parent| growing.frontier_ancestors[parent].clone()).collect();
                growing.frontier_rows =
                    parents.iter().map(|&parent| (number * width + parent) as i64).collect();
            }
        }
        Ok(trees)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use crate::{DtypeSetting, Engine, EngineConfig, Error};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn trees_are_those_that_decoding_grows(
            tokens in prop::collection::vec(4u32..260, 2..40),
            first in 0usize..20,
            depth in 0usize..=12,
            batch in 1usize..9,
        ) {
            let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair");
            let config = EngineConfig::new(pair.join("target"), pair.join("draft"));
            let engine = Engine::load(&EngineConfig { dtype: DtypeSetting::F32, ..config }).expect("loads");
            let mut visited = Vec::new();
            let visit = |position, tree| {
                visited.push((position, tree));
                Ok::<_, Error>(())
            };
            engine.trees_along(&tokens, first, depth, batch, visit).expect("trees");
            let positions: Vec<usize> = visited.iter().map(|(position, _)| *position).collect();
            prop_assert_eq!(positions, (first.max(1)..tokens.len()).collect::<Vec<_>>());
            for (position, found) in visited {
                let mut session = engine.prefill(&tokens[..position], None).expect("prefill");
                session.root = tokens[position];
                let mut cycle = engine.begin_cycle(&mut session).expect("a cycle");
                for _ in 0..depth {
                    engine.expand(&mut session, &mut cycle).expect("a level");
                }
                let expected = cycle.tree();
                prop_assert_eq!(found.scores().len(), expected.scores().len());
                // Candidates of one score but for rounding may stand in either order, and what follows from them.
                let alike = |index: &usize| found.tokens()[*index] == expected.tokens()[*index];
                let alike = (0..found.scores().len()).take_while(alike).count();
                for index in 0..alike {
                    let difference = found.scores()[index] - expected.scores()[index];
                    prop_assert!(difference.abs() < 1e-3, "{} at {}", difference, index);
                }
                if alike == found.scores().len() {
                    continue;
                }
                let near = |a: f32, b: f32| (a - b).abs() < 1e-4;
                match (found.parent(alike), expected.parent(alike)) {
                    // Two frontier nodes changed places.
                    (Some(found_parent), Some(parent)) if found_parent != parent => {
                        let scores = (found.scores()[found_parent], expected.scores()[parent]);
                        prop_assert!(near(scores.0, scores.1), "frontier at {}: {:?}", alike, scores);
                    }
                    // Two children of one node did.
                    _ => {
                        let scores = (found.scores()[alike], expected.scores()[alike]);
                        prop_assert!(near(scores.0, scores.1), "children at {}: {:?}", alike, scores);
                    }
                }
            }
        }
    }
}
