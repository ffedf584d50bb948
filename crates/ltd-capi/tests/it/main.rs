//! The C interface: its header, its handles, and what a decision allocates.

mod allocations;
mod calls;
mod header;
mod program;

/// A package of the default pair.
pub(crate) fn package(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/policies").join(name)
}
