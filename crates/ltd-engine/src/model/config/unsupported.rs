//! The error of a configuration that the engine cannot run.

use std::path::Path;

use crate::Error;

/// Characters of a value in a message.
const LONGEST_FOUND: usize = 200;

/// The error of a value that the engine cannot run.
pub(in super::super) fn unsupported(
    path: &Path,
    field: &'static str,
    expected: &str,
    mut found: String,
) -> Error {
    if let Some((end, _)) = found.char_indices().nth(LONGEST_FOUND) {
        found.replace_range(end.., " ...");
    }
    Error::ModelConfig { path: path.to_owned(), field, expected: expected.to_owned(), found }
}
