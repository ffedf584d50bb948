//! Compiles `native/shim.cpp`.

#[path = "../../../build/libtorch_shim.rs"]
mod libtorch_shim;

/// Bytes that are kept for an `at::cuda::CUDAGraph`.
const CUDA_GRAPH_BYTES: &str = include_str!("../native/cuda_graph_bytes");

fn main() {
    libtorch_shim::compile("shim.cpp", "ltd_shim", &[("LTD_CUDA_GRAPH_BYTES", CUDA_GRAPH_BYTES.trim())]);
}
