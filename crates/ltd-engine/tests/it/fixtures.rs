//! Model folders and golden files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ltd_engine::{DtypeSetting, Engine, EngineConfig};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::pairs::{PAIRS, folders};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tiny pair in f32: the one with golden files.
pub(crate) fn tiny_config() -> EngineConfig {
    config_of(PAIRS[0])
}

/// Both tiny pairs in f32, each with its name.
pub(crate) fn tiny_configs() -> impl Iterator<Item = (&'static str, EngineConfig)> {
    PAIRS.into_iter().map(|pair| (pair, config_of(pair)))
}

fn config_of(pair: &str) -> EngineConfig {
    let [target, draft] = folders(pair);
    EngineConfig { dtype: DtypeSetting::F32, ..EngineConfig::new(target, draft) }
}

/// The default pair in f32; its target folder is made by `scripts/setup`.
pub(crate) fn default_config() -> EngineConfig {
    let target = workspace().join("models/smollm2-135m-instruct");
    assert!(target.is_dir(), "{} is missing: run scripts/setup", target.display());
    let draft = workspace().join("assets/eagle3-smollm2-135m");
    EngineConfig { dtype: DtypeSetting::F32, max_length: Some(1024), ..EngineConfig::new(target, draft) }
}

/// The same with the head that its golden files are of.
pub(crate) fn golden_config() -> EngineConfig {
    EngineConfig { draft: workspace().join("tests/fixtures/eagle3-smollm2-135m"), ..default_config() }
}

/// The engine in f32, and in bf16 where its output does not depend on how it is decoded there
/// either.
#[expect(clippy::print_stdout, reason = "says what a processor leaves out")]
pub(crate) fn exact_engines(config: &EngineConfig) -> Vec<Engine> {
    let in_bf16 = load(&EngineConfig { dtype: DtypeSetting::Bf16, ..config.clone() });
    let in_f32 = load(&EngineConfig { dtype: DtypeSetting::F32, ..config.clone() });
    if in_bf16.is_batch_invariant() {
        return vec![in_f32, in_bf16];
    }
    println!("not covered: bf16, whose output depends on how it is decoded on this processor");
    vec![in_f32]
}

pub(crate) fn load(config: &EngineConfig) -> Engine {
    Engine::load(config).expect("the engine loads")
}

/// Type, shape and bytes of a tensor.
pub(crate) type Stored = (Dtype, Vec<usize>, Vec<u8>);
/// Tensors by their names.
pub(crate) type Tensors = HashMap<String, Stored>;

/// Rewrites a weight file with some tensors changed.
pub(crate) fn rewrite_tensors(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = std::fs::read(path).expect("weights");
    let old = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors: Tensors = old
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("a file")).expect("written");
}

/// One golden file: what the reference implementation computed (see
/// `tests/fixtures/golden/README.md`).
pub(crate) struct Golden {
    ints: HashMap<String, Vec<i32>>,
    floats: HashMap<String, Vec<f32>>,
    metadata: HashMap<String, String>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let path = workspace().join("tests/fixtures/golden").join(name).with_extension("safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
        let metadata = header.metadata().clone().expect("metadata");
        let (mut ints, mut floats) = (HashMap::new(), HashMap::new());
        for (name, view) in SafeTensors::deserialize(&bytes).expect("a safetensors file").iter() {
            let words =
                view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("four bytes"));
            match view.dtype() {
                Dtype::I32 => _ = ints.insert(name.to_owned(), words.map(i32::from_le_bytes).collect()),
                Dtype::F32 => _ = floats.insert(name.to_owned(), words.map(f32::from_le_bytes).collect()),
                other => panic!("{name} has unexpected type {other:?}"),
            }
        }
        Self { ints, floats, metadata }
    }

    pub(crate) fn setting(&self, name: &str) -> usize {
        self.metadata[name].parse().expect("a number")
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.ints[name].iter().map(|&id| id as u32).collect()
    }

    pub(crate) fn indices(&self, cycle: usize, name: &str) -> Vec<usize> {
        self.ints[&format!("cycle.{cycle}.{name}")].iter().map(|&index| index as usize).collect()
    }

    pub(crate) fn floats(&self, cycle: usize, name: &str) -> Option<&[f32]> {
        self.floats.get(&format!("cycle.{cycle}.{name}")).map(Vec::as_slice)
    }
}
