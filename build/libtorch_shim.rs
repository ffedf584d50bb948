//! Shared build script of the crates with C++ of their own: compiles it for the LibTorch that is
//! linked.

#[path = "libtorch_rpath.rs"]
mod libtorch_rpath;

use std::path::{Path, PathBuf};

/// Compiles `native/SOURCE` into a library of this name, and names LibTorch's folder in run paths.
#[expect(clippy::print_stdout, reason = "cargo reads it")]
pub(crate) fn compile(source: &str, library: &str, definitions: &[(&str, &str)]) {
    libtorch_rpath::main();
    // Of what the sources share.
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-changed=native");
    println!("cargo:rerun-if-changed={}", shared.join("guarded.h").display());
    let named = ["LIBTORCH_INCLUDE", "LIBTORCH"].into_iter().find_map(|name| std::env::var(name).ok());
    let include = PathBuf::from(named.expect("LIBTORCH is not set: run scripts/setup")).join("include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include(&include).include(&shared);
    for (name, value) in definitions {
        build.define(name, *value);
    }
    // LibTorch's headers are not this project's to warn of.
    build.warnings(false).file(Path::new("native").join(source)).compile(library);
}
