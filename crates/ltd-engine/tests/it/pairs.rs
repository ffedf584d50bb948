//! The tiny pairs, for these tests and those beside the code.

use std::path::{Path, PathBuf};

/// Folders under `tests/fixtures`. In the first pair all query heads share one key head, which
/// leaves most orders of heads in memory alike; in the second, two key heads have three query heads
/// each.
pub(crate) const PAIRS: [&str; 2] = ["tiny-pair", "tiny-gqa-pair"];

/// The folders of a pair's target and draft.
pub(crate) fn folders(pair: &str) -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(pair);
    ["target", "draft"].map(|model| folder.join(model))
}
