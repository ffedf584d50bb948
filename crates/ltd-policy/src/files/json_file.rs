//! JSON files: written for people to read, whole or not at all.

use std::path::Path;

use serde::Serialize;

use super::atomic_file::write_atomically;
use crate::Result;

/// Plain data as indented JSON, with a newline at its end.
///
/// # Panics
/// If `data` is no plain data: maps have keys that are no strings, or its serialiser fails.
pub fn json_text(data: &impl Serialize) -> String {
    serde_json::to_string_pretty(data).expect("invariant: plain data") + "\n"
}

/// Writes [`json_text`], see [`write_atomically`].
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(path: &Path, data: &impl Serialize) -> Result<()> {
    write_atomically(path, json_text(data).as_bytes())
}
