//! Compiles `native/store.cpp`.

#[path = "../../../build/libtorch_shim.rs"]
mod libtorch_shim;

fn main() {
    libtorch_shim::compile("store.cpp", "ltd_store", &[]);
}
