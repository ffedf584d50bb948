//! The weight files of a model folder, in the layouts of Hugging Face: one file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// In order of preference: safetensors is read tensor by tensor.
const LAYOUTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// The weight files of a model folder, each once, in order of name.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for (single, index) in LAYOUTS {
        let index = folder.join(index);
        if index.is_file() {
            return shards(folder, &index);
        }
        let single = folder.join(single);
        if single.is_file() {
            return Ok(vec![single]);
        }
    }
    std::fs::metadata(folder).map_err(Error::io(folder))?;
    Err(Error::NoWeights { folder: folder.to_owned() })
}

/// Whether a weight file is PyTorch's pickle rather than safetensors.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let parsed: Index =
        serde_json::from_str(&text).map_err(|source| Error::Json { path: index.to_owned(), source })?;
    let files: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if files.is_empty() {
        return Err(Error::NoWeights { folder: folder.to_owned() });
    }
    let shard = |file: String| {
        let path = folder.join(&file);
        if path.is_file() { Ok(path) } else { Err(Error::MissingShard { index: index.to_owned(), file }) }
    };
    files.into_iter().map(shard).collect()
}
