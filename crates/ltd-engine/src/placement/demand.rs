//! How many bytes a pair needs on a device.

use super::fit::Demand;
use crate::device::Dtype;
use crate::model::{BlockConfig, Bucket, DraftConfig, TargetConfig, layer_weights};
use crate::prefill::MOST_MASKED;

/// A pair and how it is to run.
pub(crate) struct Pair<'a> {
    /// Dimensions of the target.
    pub(crate) target: &'a TargetConfig,
    /// Dimensions of the draft.
    pub(crate) draft: &'a DraftConfig,
    /// Whether the draft reads the target's embedding.
    pub(crate) shares_embedding: bool,
    /// Number type of both models.
    pub(crate) dtype: Dtype,
    /// Positions of the target's cache.
    pub(crate) capacity: usize,
    /// Rows of the draft's cache.
    pub(crate) draft_rows: usize,
    /// Whether forwards of the target are CUDA graphs.
    pub(crate) cuda_graphs: bool,
}

/// Kernels that are loaded when they are first used, workspaces of libraries, and what LibTorch's
/// allocator holds without using it.
const LIBRARIES: u64 = 1 << 30;
/// Most rows of which all logits are computed at once: a verification.
const LOGIT_ROWS: i64 = 256;
/// Most kernels of a layer in a graph.
const LAYER_KERNELS: u64 = 20;
/// Bytes that CUDA keeps of a kernel in a graph: an estimate, as it tells nobody.
const KERNEL_BYTES: u64 = 4096;
/// Bytes of a logit while tokens are chosen: in f32, the number and its probability.
const LOGIT_BYTES: u64 = 8;

impl Pair<'_> {
    /// The parts' bytes. Biases are left out, which are far less than what is reserved for
    /// forwards.
    pub(crate) fn demand(&self) -> Demand {
        let (target, draft) = (self.target, self.draft);
        let element = self.dtype.kind().elt_size_in_bytes() as u64;
        let block = &target.block;
        let vocabulary = target.vocabulary * block.hidden;
        let embedding = vocabulary as u64 * element;
        let tied = u64::from(target.tied_embeddings);
        let own_embedding = if self.shares_embedding { 0 } else { draft.vocabulary * draft.block.hidden };
        Demand {
            layers: target.layers as usize,
            layer_weights: (layer_weights(block, block.hidden) + 2 * block.hidden) as u64 * element,
            layer_cache: cache_elements(block, self.capacity) * element,
            embedding,
            output: (1 - tied) * embedding,
            draft: (draft_weights(draft) + own_embedding) as u64 * element
                + cache_elements(&draft.block, self.draft_rows) * element,
            copies: tied * embedding + u64::from(self.shares_embedding) * vocabulary as u64 * element,
            working: LIBRARIES
                + self.activations(element).max(vocabulary as u64 * element)
                + if self.cuda_graphs { self.graphs(element) } else { 0 },
        }
    }

    /// What CUDA graphs hold: a pool for what their largest forward makes on the way, places for
    /// what they find, and what CUDA keeps of each kernel.
    fn graphs(&self, element: u64) -> u64 {
        let BlockConfig { hidden, heads, kv_heads, .. } = self.target.block;
        let rows = Bucket::MOST_ROWS;
        let mask = (heads / kv_heads * rows) as u64 * self.capacity as u64 * element;
        let logits = (rows * self.target.vocabulary) as u64;
        let features = (rows * 3 * hidden) as u64 * element;
        let pool = rows as u64 * self.row() * element + mask + logits * LOGIT_BYTES;
        let kernels =
            Bucket::all(self.capacity as i64).len() as u64 * self.target.layers as u64 * LAYER_KERNELS;
        pool + features + logits * 4 + kernels * KERNEL_BYTES
    }

    /// The most that a forward holds at once: a prompt as long as the cache, then the logits of a
    /// verification. A matrix that is read in another type than the file's takes as much while
    /// models are loaded.
    fn activations(&self, element: u64) -> u64 {
        let BlockConfig { heads, kv_heads, head_dim, .. } = self.target.block;
        let capacity = self.capacity as u64;
        let group = heads / kv_heads;
        let logits = (LOGIT_ROWS * self.target.vocabulary) as u64 * LOGIT_BYTES;
        // Who sees whom where something is cached: for each query head that shares a key head.
        let mask = group as u64 * MOST_MASKED as u64 * capacity * element;
        // Where nothing is, keys and values for each query head.
        let repeated = (2 * heads * head_dim) as u64;
        capacity * (self.row() + repeated) * element + mask + logits
    }

    /// Numbers that a forward holds of a row.
    fn row(&self) -> u64 {
        let BlockConfig { hidden, intermediate, heads, kv_heads, head_dim, .. } = self.target.block;
        // The features; residual stream and norms; queries, keys and values before, during and
        // after the rotation, and its cosines and sines; gate, up and their product.
        let rotation = (3 * (heads + 2 * kv_heads) + 2 * (heads / kv_heads + 2)) * head_dim;
        (3 * hidden + 4 * hidden + rotation + 3 * intermediate) as u64
    }
}

/// Keys and values of one layer.
fn cache_elements(block: &BlockConfig, rows: usize) -> u64 {
    (2 * block.kv_heads * block.head_dim) as u64 * rows as u64
}

/// An EAGLE-3 head without embedding.
fn draft_weights(draft: &DraftConfig) -> i64 {
    let hidden = draft.block.hidden;
    let output = if draft.output_is_embedding() { 0 } else { draft.draft_vocabulary * hidden };
    let projections = 3 * draft.target_hidden * hidden + output;
    layer_weights(&draft.block, 2 * hidden) + projections + 4 * hidden
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pairs::{PAIRS, folders};
    use crate::{DtypeSetting, Engine, EngineConfig};

    /// What the engine itself counts, on one device: `copies` are none.
    fn assert_counts(target: &Path, draft: &Path, shares_embedding: bool) {
        let config = EngineConfig { dtype: DtypeSetting::F32, ..EngineConfig::new(target, draft) };
        let engine = Engine::load(&config).expect("the engine loads");
        let pair = Pair {
            target: engine.target_config(),
            draft: engine.draft_config(),
            shares_embedding,
            dtype: Dtype::F32,
            capacity: engine.capacity(),
            draft_rows: engine.draft_rows(),
            cuda_graphs: false,
        };
        let demand = pair.demand();
        let layers = demand.layers as u64;
        let caches = engine.cache_bytes();
        let weights = layers * demand.layer_weights + demand.embedding + demand.output + demand.draft;
        let draft_cache = caches - layers * demand.layer_cache;
        let final_norm = 4 * engine.target_config().block.hidden as u64;
        assert_eq!(weights + final_norm, engine.weight_bytes() + draft_cache);
        let halved = Pair { dtype: Dtype::Bf16, ..pair }.demand();
        assert_eq!(2 * halved.layer_weights, demand.layer_weights);
        assert_eq!(2 * halved.layer_cache, demand.layer_cache);
        assert_eq!(2 * halved.draft, demand.draft);
    }

    #[test]
    fn the_parts_are_what_the_engine_counts() {
        for pair in PAIRS {
            let [target, draft] = folders(pair);
            assert_counts(&target, &draft, true);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        assert_counts(
            &root.join("models/smollm2-135m-instruct"),
            &root.join("assets/eagle3-smollm2-135m"),
            true,
        );
    }

    #[test]
    fn published_pairs_need_what_their_sizes_say() {
        let changed = |name: &str, capacity: usize, change: fn(&mut DraftConfig)| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/families/configs");
            let target = TargetConfig::load(&root.join(name).join("target")).expect("a target");
            let mut draft = DraftConfig::load(&root.join(name).join("draft")).expect("a head");
            change(&mut draft);
            let pair = Pair {
                target: &target,
                draft: &draft,
                shares_embedding: true,
                dtype: Dtype::Bf16,
                capacity,
                draft_rows: capacity + 120,
                cuda_graphs: false,
            };
            let with_graphs = Pair { cuda_graphs: true, ..pair }.demand();
            let graphs = with_graphs.working - pair.demand().working;
            assert!((100 << 20..1 << 30).contains(&graphs), "{name}: {graphs}");
            pair.demand()
        };
        let demand = |name: &str, capacity: usize| changed(name, capacity, |_| ());
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let weights =
            |demand: &Demand| demand.layers as u64 * demand.layer_weights + demand.embedding + demand.output;
        // 8.03 and 32.76 billion parameters in two bytes.
        let (llama, qwen) = (demand("llama-3.1-8b", 2048), demand("qwen3-32b", 2048));
        assert!((gib(weights(&llama)) - 14.96).abs() < 0.01, "{}", gib(weights(&llama)));
        assert!((gib(weights(&qwen)) - 61.02).abs() < 0.01, "{}", gib(weights(&qwen)));
        // 8 key heads of 128 and 2048 positions; untied: only the draft needs a copy of the
        // embedding.
        assert_eq!(llama.layer_cache, 2 * 8 * 128 * 2048 * 2);
        assert_eq!(llama.copies, llama.embedding);
        assert!(gib(llama.working) < 2.0 && gib(qwen.working) < 3.0);
        // A head whose output is the embedding, which is the target's, has no matrix of its own.
        let whole = changed("llama-3.1-8b", 2048, |draft| draft.draft_vocabulary = draft.vocabulary);
        let tied = changed("llama-3.1-8b", 2048, |draft| {
            (draft.draft_vocabulary, draft.tied_embeddings) = (draft.vocabulary, true);
        });
        assert_eq!(whole.draft - tied.draft, tied.embedding);
        // The rows of a long prompt, and the mask of the last 1,024 of them, for groups of four
        // heads. It does not grow with the square of the length.
        let working = |capacity| demand("llama-3.1-8b", capacity).working;
        let [half, whole] = [8192, 16_384].map(|more| working(16_384 + more) - working(16_384));
        assert_eq!(whole, 2 * half);
        assert!((2.0..4.0).contains(&gib(whole)), "{}", gib(whole));
    }
}
