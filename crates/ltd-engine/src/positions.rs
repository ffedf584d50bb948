//! Draft trees at many positions of a known sequence: what recording needs, at the price of few
//! large forwards.

use ltd_cycle::GrowingTree;
use tch::Tensor;

use crate::blame::Read;
use crate::kv_cache::KvCache;
use crate::model::{AttentionMask, Continuations, Rows, best_log_probs, entropies};
use crate::reading::Reading;
use crate::transfer::Waited;
use crate::{DraftTree, Engine, Error, GrownTree, Result};

const ROWS: i64 = 0;

/// Where trees grow along a sequence, and what is wanted of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Along {
    /// Position of the first root.
    pub first: usize,
    /// Positions from one root to the next, at least 1.
    pub every: usize,
    /// Levels beyond the root expansion.
    pub depth: usize,
    /// Trees that grow at the same time, at least 1.
    pub batch: usize,
    /// Whether [`GrownTree::entropies`] are wanted.
    pub entropies: bool,
    /// Whether [`GrownTree::hidden`] is wanted.
    pub hidden: bool,
    /// Whether [`GrownTree::states`] are wanted.
    pub states: bool,
}

/// A tree that grows beside others.
struct Growing {
    /// Position of its root.
    root: usize,
    /// Rows are those of the draft's cache.
    tree: GrowingTree,
    entropies: Vec<f32>,
    hidden: Vec<f32>,
    states: Vec<f32>,
}

impl From<Growing> for GrownTree {
    fn from(growing: Growing) -> Self {
        let Growing { root, tree, entropies, hidden, states } = growing;
        Self { root, tree: tree.into_tree(), entropies, hidden, states }
    }
}

/// The rows of one level of all trees, tree after tree.
#[derive(Default)]
struct LevelRows {
    tokens: Vec<u32>,
    positions: Vec<i64>,
    /// Rows of the level before.
    parents: Vec<i64>,
    /// `[rows, columns from the first root on]`.
    sees: Vec<bool>,
}

impl Engine {
    /// Lets the target read tokens that are known. What a session generated need not be read once
    /// more: [`Session::reading`](crate::Session::reading).
    ///
    /// # Errors
    /// If there are fewer than two tokens, they do not fit the cache or are unknown.
    pub fn read(&self, tokens: &[u32]) -> Result<Reading> {
        let context = &tokens[..tokens.len().saturating_sub(1)];
        self.check_prompt(context)?;
        let features = self.read_prompt(context, &mut self.new_caches()?.0)?.features;
        Ok(Reading { engine: self.identity, tokens: tokens.to_vec(), features })
    }

    /// Grows draft trees at the roots that `along` names up to the end of a text, each with the
    /// token there as its root and all tokens before it as its context, and hands each to `visit`.
    /// They are the trees that decoding would grow there, many at a time.
    ///
    /// # Errors
    /// If another engine read the text, or if `visit` fails.
    pub fn trees_along<E: From<Error>>(
        &self,
        reading: &Reading,
        along: &Along,
        mut visit: impl FnMut(GrownTree) -> Result<(), E>,
    ) -> Result<(), E> {
        if along.depth > self.max_depth() {
            return Err(Error::DepthLimit { depth: self.max_depth() }.into());
        }
        let Reading { engine, tokens, features } = reading;
        if *engine != self.identity {
            return Err(Error::ForeignSession.into());
        }
        // The first token has no features before it, hence no tree.
        let first = along.first.max(1);
        if tokens.len() <= first {
            return Ok(());
        }
        let roots: Vec<usize> = (first..tokens.len()).step_by(along.every.max(1)).collect();
        let batch = along.batch.clamp(1, roots.len());
        let mut cache = self.draft_cache(tokens.len() + batch * self.beam_width() * along.depth)?;
        for roots in roots.chunks(batch) {
            for growing in self.grow(tokens, features, roots, along, &mut cache)? {
                visit(growing.into())?;
            }
        }
        Ok(())
    }

    /// Trees at ascending roots. The stable rows of the cache are extended up to the last root; the
    /// trees' rows lie after them, and the next call overwrites them.
    fn grow(
        &self,
        tokens: &[u32],
        features: &Tensor,
        roots: &[usize],
        along: &Along,
        cache: &mut KvCache,
    ) -> Result<Vec<Growing>> {
        let last = roots[roots.len() - 1];
        let read = cache.len() as usize;
        let new = features.narrow(ROWS, read as i64, (last - read) as i64);
        let hidden = self.draft_stable_rows(&tokens[read + 1..=last], &new, cache)?;
        let rows: Vec<i64> = roots.iter().map(|root| (root - 1 - read) as i64).collect();
        let mut hidden = hidden.f_index_select(ROWS, &self.index_tensor(&rows)?)?;
        let read = Read { tokens: &tokens[1..], features: Some((0, features)) };
        let mut trees = self.plant(&hidden, roots, along, &read)?;
        for made in 0..along.depth {
            hidden = self.grow_level(&mut trees, &hidden, last, made, along, cache)?;
        }
        Ok(trees)
    }

    /// The root expansions, of the draft's output after each root.
    fn plant(&self, hidden: &Tensor, roots: &[usize], along: &Along, read: &Read) -> Result<Vec<Growing>> {
        let width = self.beam_width();
        let logits = self.draft.logits(hidden)?;
        let level = self.continuations(&logits)?;
        self.check_scores(&level.log_probs, 0, |index| roots[index / width], read)?;
        let entropies = if along.entropies { entropies(&logits)? } else { Vec::new() };
        let outputs: Vec<f32> = if along.hidden { Vec::try_from(hidden.view(-1))? } else { Vec::new() };
        let part = |values: &[f32], number: usize| {
            let length = values.len() / roots.len();
            values[number * length..][..length].to_vec()
        };
        let rows = level.log_probs.chunks_exact(width).zip(level.tokens.chunks_exact(width));
        let trees = rows.zip(roots).enumerate().map(|(number, ((log_probs, tokens), &root))| Growing {
            root,
            tree: GrowingTree::new(DraftTree::new(log_probs, tokens.to_vec())),
            entropies: part(&entropies, number),
            hidden: part(&outputs, number),
            states: Vec::new(),
        });
        Ok(trees.collect())
    }

    /// The best continuations of some rows of logits.
    fn continuations(&self, logits: &Tensor) -> Result<Continuations> {
        let best = best_log_probs(logits, self.beam_width())?;
        self.draft.continuations(best, &Waited::for_all_before(logits)?)
    }

    /// Adds a level to trees that have `made`; returns the draft's output of its rows. `last` is
    /// the last root.
    fn grow_level(
        &self,
        trees: &mut [Growing],
        hidden: &Tensor,
        last: usize,
        made: usize,
        along: &Along,
        cache: &KvCache,
    ) -> Result<Tensor> {
        let width = self.beam_width();
        let past = last + made * trees.len() * width;
        let first = trees[0].root;
        let rows = level_rows(trees, past, made);
        let mask = &AttentionMask::tree(first as i64, rows.sees);
        let of_level = Rows { tokens: &rows.tokens, positions: &rows.positions, past: past as i64, mask };
        let hidden = self.draft.forward(&of_level, hidden, Some(&rows.parents), cache)?;
        let logits = self.draft.logits(&hidden)?;
        let level = self.continuations(&logits)?;
        let root = |index: usize| trees[index / (width * width)].root;
        let read = Read { tokens: &rows.tokens, features: None };
        self.check_scores(&level.log_probs, made + 1, root, &read)?;
        if along.entropies {
            let entropies = entropies(&logits)?;
            for (growing, entropies) in trees.iter_mut().zip(entropies.chunks_exact(width)) {
                growing.entropies.extend_from_slice(entropies);
            }
        }
        if along.states {
            // Rows of each tree's best candidate.
            let best = hidden.f_slice(ROWS, None, None, width as i64)?.contiguous();
            let (states, hidden) = (Vec::<f32>::try_from(best.view(-1))?, hidden.size()[1] as usize);
            for (growing, state) in trees.iter_mut().zip(states.chunks_exact(hidden)) {
                growing.states.extend_from_slice(state);
            }
        }
        let of_trees = level.log_probs.chunks_exact(width * width);
        for (number, (growing, (log_probs, tokens))) in
            trees.iter_mut().zip(of_trees.zip(level.tokens.chunks_exact(width * width))).enumerate()
        {
            growing.tree.push_level(past + number * width, log_probs, tokens);
        }
        Ok(hidden)
    }
}

/// What the frontiers of trees with `made` levels are to be run with. Their rows follow `past`
/// cached ones.
fn level_rows(trees: &[Growing], past: usize, made: usize) -> LevelRows {
    let first = trees[0].root;
    let width = trees[0].tree.tree().beam_width();
    let count = trees.len() * width;
    let columns = past + count - first;
    // Of the level before: one row is each tree's root expansion.
    let rows_before = if made == 0 { 1 } else { width };
    let mut rows = LevelRows { sees: vec![false; count * columns], ..LevelRows::default() };
    for (number, Growing { root, tree, .. }) in trees.iter().enumerate() {
        rows.positions.extend(std::iter::repeat_n((*root + made) as i64, width));
        rows.tokens.extend(tree.frontier_tokens());
        rows.parents.extend(tree.parents().iter().map(|row| (number * rows_before + row) as i64));
        for node in 0..width {
            let row = number * width + node;
            let sees = &mut rows.sees[row * columns..][..columns];
            // Its own part of the sequence, its ancestors and itself.
            sees[..*root - first].fill(true);
            tree.seen_by(node, past + number * width).for_each(|seen| sees[seen - first] = true);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Along;
    use crate::pairs::{PAIRS, folders};
    use crate::{DtypeSetting, Engine, EngineConfig, Error, Sampler, Static};

    fn engine(pair: &str) -> Engine {
        let [target, draft] = folders(pair);
        let config = EngineConfig::new(target, draft);
        Engine::load(&EngineConfig { dtype: DtypeSetting::F32, ..config }).expect("loads")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn trees_are_those_that_decoding_grows(
            tokens in prop::collection::vec(4u32..260, 2..40),
            first in 0usize..20,
            every in 1usize..6,
            depth in 0usize..=12,
            batch in 1usize..9,
            pair in prop::sample::select(PAIRS.to_vec()),
        ) {
            let engine = engine(pair);
            let mut visited = Vec::new();
            let along = Along { first, every, depth, batch, entropies: false, hidden: false, states: false };
            engine
                .trees_along(&engine.read(&tokens).expect("read"), &along, |grown| {
                    visited.push((grown.root, grown.tree));
                    Ok::<_, Error>(())
                })
                .expect("trees");
            let positions: Vec<usize> = visited.iter().map(|(position, _)| *position).collect();
            prop_assert_eq!(positions, (first.max(1)..tokens.len()).step_by(every).collect::<Vec<_>>());
            for (position, found) in visited {
                let mut session = engine.prefill(&tokens[..position], None).expect("prefill");
                session.root = tokens[position];
                let mut cycle = engine.begin_cycle(&mut session, usize::MAX).expect("a cycle");
                for _ in 0..depth {
                    engine.expand(&mut session, &mut cycle).expect("a level");
                }
                let expected = cycle.tree();
                prop_assert_eq!(found.scores().len(), expected.scores().len());
                // Candidates of one score but for rounding may stand in either order, and what
                // follows from them.
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

    #[test]
    fn what_the_draft_is_like_does_not_depend_on_its_neighbours() {
        PAIRS.into_iter().for_each(assert_neighbours_do_not_matter);
    }

    fn assert_neighbours_do_not_matter(pair: &str) {
        let engine = engine(pair);
        let tokens: Vec<u32> = (0..30).map(|index| 4 + index * 37 % 250).collect();
        let grown = |batch: usize| {
            let along =
                Along { first: 5, every: 3, depth: 2, batch, entropies: true, hidden: true, states: true };
            let mut grown = Vec::new();
            let visit = |tree| {
                grown.push(tree);
                Ok::<_, Error>(())
            };
            engine.trees_along(&engine.read(&tokens).expect("read"), &along, visit).expect("trees");
            grown
        };
        let (alone, together) = (grown(1), grown(4));
        assert_eq!(alone.len(), 9);
        let width = engine.beam_width();
        let most = (engine.draft_config().draft_vocabulary as f32).ln();
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.hidden.len() as i64, engine.draft_config().block.hidden);
            assert_eq!((alone.entropies.len(), alone.states.len()), (1 + 2 * width, 2 * alone.hidden.len()));
            let all = |tree: &super::GrownTree| [&tree.hidden[..], &tree.entropies, &tree.states].concat();
            assert!(all(alone).iter().zip(all(together)).all(|(a, b)| (a - b).abs() < 1e-3), "{pair}");
            // The best candidates hold a part of the distribution.
            let top: f32 = alone.tree.scores()[..width].iter().map(|score| -score * score.exp()).sum();
            assert!(
                alone.entropies[0] > top
                    && alone.entropies.iter().all(|entropy| (0.0..most).contains(entropy)),
                "{pair}"
            );
        }
    }

    #[test]
    fn what_a_session_keeps_is_what_reading_gives() {
        for pair in PAIRS {
            let engine = engine(pair);
            let mut session = engine.prefill_keeping(&[40, 90, 120], Sampler::greedy()).expect("prefill");
            let mut controller = Static { depth: 2, size: 8 };
            for _ in 0..12 {
                engine.run_cycle(&mut session, &mut controller).expect("a cycle");
            }
            let mut tokens = session.tokens().to_vec();
            tokens.push(session.root());
            for count in [1, 2, 9, tokens.len()] {
                let kept = session.reading(count).expect("memory").expect("kept");
                assert_eq!(kept.tokens, tokens[..count], "{pair}");
                if count > 1 {
                    let read = engine.read(&tokens[..count]).expect("read");
                    assert_eq!(kept.features.size(), read.features.size(), "{pair}");
                    let difference = (kept.features - read.features).abs().max().double_value(&[]);
                    assert!(difference < 1e-4, "{pair}: {difference}");
                }
            }
            assert!(session.reading(0).expect("none").is_none());
            assert!(session.reading(tokens.len() + 1).expect("none").is_none());
            let other = self::engine(pair);
            let along = Along {
                first: 1,
                every: 1,
                depth: 1,
                batch: 1,
                entropies: false,
                hidden: false,
                states: false,
            };
            let reading = session.reading(3).expect("memory").expect("kept");
            let error = other.trees_along(&reading, &along, |_| Ok::<_, Error>(())).expect_err("foreign");
            assert!(matches!(error, Error::ForeignSession));
            // Plain steps do without features.
            engine.autoregressive_step(&mut session).expect("a step");
            assert!(session.reading(3).expect("none").is_none());
        }
    }
}
