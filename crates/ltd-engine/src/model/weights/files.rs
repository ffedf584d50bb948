//! The weight files of a model folder, in the layouts of Hugging Face: one file, or shards with an
//! index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// In order of preference: safetensors is read tensor by tensor.
const LAYOUTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// The weight files of a model folder, each once, in order of name. As in transformers, a single
/// file is read whatever an index beside it says: see [`passed_over_index`].
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for (single, index) in LAYOUTS {
        let (single, index) = (folder.join(single), folder.join(index));
        if single.is_file() {
            return Ok(vec![single]);
        }
        if index.is_file() {
            return shards(folder, &index);
        }
    }
    std::fs::metadata(folder).map_err(Error::io(folder))?;
    Err(Error::NoWeights { folder: folder.to_owned() })
}

/// A warning if there is an index beside the single file that is read, and it names other files.
pub(crate) fn passed_over_index(folder: &Path) -> Option<String> {
    let (single, index) = LAYOUTS.into_iter().find(|(single, _)| folder.join(single).is_file())?;
    let index = folder.join(index);
    let names = index.is_file().then(|| named_files(&index))?;
    let problem = match names {
        Ok(files) if files.iter().eq([single]) => return None,
        Ok(files) => match files.iter().filter(|file| !folder.join(file).is_file()).count() {
            0 => format!("it names {} other files", files.len()),
            missing => format!("{missing} of the {} files it names are not there", files.len()),
        },
        Err(error) => error.to_string(),
    };
    Some(format!("{} is passed over, and {single} read: {problem}", index.display()))
}

/// Whether a weight file is PyTorch's pickle rather than safetensors.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let files = named_files(index)?;
    if files.is_empty() {
        return Err(Error::NoWeights { folder: folder.to_owned() });
    }
    let shard = |file: String| {
        let path = folder.join(&file);
        if path.is_file() { Ok(path) } else { Err(Error::MissingShard { index: index.to_owned(), file }) }
    };
    files.into_iter().map(shard).collect()
}

/// The files that an index names, each once.
fn named_files(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = ltd_policy::read_text(index).map_err(Error::io(index))?;
    let parsed: Index =
        serde_json::from_str(&text).map_err(|source| Error::Json { path: index.to_owned(), source })?;
    Ok(parsed.weight_map.into_values().collect())
}
