//! Forms of files.

/// What a file consists of, for mutations that keep its form and change what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// One JSON value.
    Json,
    /// A JSON value on each line.
    Lines,
    /// A safetensors file: the length of a JSON value in eight bytes, the value, and data.
    Safetensors,
}
