//! A target and a draft over a vocabulary of four tokens, small enough to know all probabilities.

use ltd_engine::{DraftTree, SamplingParams, VerificationTree};
use ltd_policy::tree_candidates;
use tch::Tensor;

pub(crate) const VOCABULARY: usize = 4;
/// Tokens of a sequence that are looked at, jointly.
pub(crate) const LENGTH: usize = 3;
/// Sequences of that length.
pub(crate) const CELLS: usize = VOCABULARY.pow(LENGTH as u32);

/// Beam width, draft depth, verification size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) width: usize,
    pub(crate) depth: usize,
    pub(crate) size: usize,
}

/// Trees of all widths and depths, each verified in part and as a whole.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for width in 1..=VOCABULARY {
        for depth in 0..=3 {
            let nodes = tree_candidates(width, depth);
            for size in [0, 1, 2, 3, 5, 9, nodes] {
                let shape = Shape { width, depth, size: size.min(nodes) };
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
        }
    }
    shapes
}

/// A verified tree after a context, with what the target says about each row.
pub(crate) struct Tree {
    pub(crate) verification: VerificationTree,
    /// Draft's probability of each row's token after its parent.
    pub(crate) draft_probabilities: Vec<f64>,
    /// The target's logits, `[rows, vocabulary]`.
    pub(crate) logits: Tensor,
    /// Its distributions under the settings.
    pub(crate) distributions: Vec<Vec<f64>>,
}

impl Tree {
    pub(crate) fn new(context: &[u32], shape: Shape, params: &SamplingParams) -> Self {
        let Shape { width, depth, size } = shape;
        let best = |path: &[u32]| {
            let mut best: Vec<(u32, f32)> = (0..).zip(draft_log_probs(path)).collect();
            best.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            best.truncate(width);
            best
        };
        let (tokens, scores): (Vec<u32>, Vec<f32>) = best(context).into_iter().unzip();
        let mut tree = DraftTree::new(&scores, tokens);
        for _ in 0..depth {
            let children = tree.frontier().iter().flat_map(|&node| best(&path(&tree, context, Some(node))));
            let (tokens, log_probs): (Vec<u32>, Vec<f32>) = children.unzip();
            tree.push_level(&log_probs, &tokens);
        }
        let verification = tree.select(0, size);
        let nodes = [None].into_iter().chain(verification.selected.iter().map(|&node| Some(node)));
        let paths: Vec<Vec<u32>> = nodes.map(|node| path(&tree, context, node)).collect();
        let draft_probabilities = paths.iter().map(|path| {
            path.split_last()
                .map_or(1.0, |(&last, path)| f64::from(draft_log_probs(path)[last as usize]).exp())
        });
        let logits: Vec<f32> = paths.iter().flat_map(|path| target_logits(path)).collect();
        Self {
            draft_probabilities: draft_probabilities.collect(),
            logits: Tensor::from_slice(&logits).view([-1, VOCABULARY as i64]),
            distributions: paths.iter().map(|path| target_distribution(path, params)).collect(),
            verification,
        }
    }
}

/// The tokens from the context's start to a node.
fn path(tree: &DraftTree, context: &[u32], node: Option<usize>) -> Vec<u32> {
    let mut reversed = Vec::new();
    let mut next = node;
    while let Some(node) = next {
        reversed.push(tree.tokens()[node]);
        next = tree.parent(node);
    }
    context.iter().copied().chain(reversed.into_iter().rev()).collect()
}

/// A number in -1.5 .. 1.5 for a sequence and a token (FNV-1a).
fn hashed(path: &[u32], token: u32, salt: u32) -> f32 {
    let words = path.iter().copied().chain([token, salt]);
    let hash = words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
        (hash ^ u64::from(word + 1)).wrapping_mul(0x0100_0000_01b3)
    });
    3.0 * ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 24) as f32 - 1.5
}

fn target_logits(path: &[u32]) -> Vec<f32> {
    (0..VOCABULARY as u32).map(|token| hashed(path, token, 0)).collect()
}

/// A draft that agrees with the target in part.
fn draft_log_probs(path: &[u32]) -> Vec<f32> {
    let logits: Vec<f32> =
        (0..VOCABULARY as u32).map(|token| 0.5 * (hashed(path, token, 0) + hashed(path, token, 1))).collect();
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.into_iter().map(|logit| logit - sum.ln()).collect()
}

/// What the target's distribution must be, written without tensors and without regard to speed.
pub(crate) fn target_distribution(path: &[u32], params: &SamplingParams) -> Vec<f64> {
    let logits = target_logits(path).into_iter().map(|logit| f64::from(logit) / params.temperature);
    let mut p: Vec<f64> = logits.map(f64::exp).collect();
    let mut order: Vec<usize> = (0..VOCABULARY).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    for &token in order.iter().skip(params.top_k.unwrap_or(VOCABULARY)) {
        p[token] = 0.0;
    }
    normalise(&mut p);
    let mut before = 0.0;
    for &token in &order {
        let probability = p[token];
        if before >= params.top_p {
            p[token] = 0.0;
        }
        before += probability;
    }
    normalise(&mut p);
    p
}

pub(crate) fn normalise(p: &mut [f64]) {
    let sum: f64 = p.iter().sum();
    for value in p {
        *value /= sum;
    }
}

/// Probability of each sequence of [`LENGTH`] tokens.
pub(crate) fn sequence_probabilities(params: &SamplingParams) -> Vec<f64> {
    let probability = |cell: usize| {
        let sequence = sequence(cell);
        (0..LENGTH)
            .map(|length| target_distribution(&sequence[..length], params)[sequence[length] as usize])
            .product()
    };
    (0..CELLS).map(probability).collect()
}

pub(crate) fn cell(sequence: &[u32]) -> usize {
    sequence[..LENGTH].iter().fold(0, |cell, &token| cell * VOCABULARY + token as usize)
}

fn sequence(cell: usize) -> Vec<u32> {
    (0..LENGTH as u32).rev().map(|place| (cell / VOCABULARY.pow(place) % VOCABULARY) as u32).collect()
}
