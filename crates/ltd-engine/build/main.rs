//! Compiles `native/shim.cpp` for the LibTorch that is linked, and names its folder in run paths.

#[path = "../../../build/libtorch_rpath.rs"]
mod libtorch_rpath;

use std::path::PathBuf;

/// Bytes that are kept for an `at::cuda::CUDAGraph`.
const CUDA_GRAPH_BYTES: &str = include_str!("../native/cuda_graph_bytes");

#[expect(clippy::print_stdout, reason = "cargo reads it")]
fn main() {
    libtorch_rpath::main();
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-changed=native");
    let named = ["LIBTORCH_INCLUDE", "LIBTORCH"].into_iter().find_map(|name| std::env::var(name).ok());
    let include = PathBuf::from(named.expect("LIBTORCH is not set: run scripts/setup")).join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(&include)
        // Its headers are not this project's to warn of.
        .warnings(false)
        .define("LTD_CUDA_GRAPH_BYTES", CUDA_GRAPH_BYTES.trim())
        .file("native/shim.cpp")
        .compile("ltd_shim");
}
