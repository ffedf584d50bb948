//! Build script of the crates that link LibTorch only with their feature `live`.

#[path = "libtorch_rpath.rs"]
mod libtorch_rpath;

fn main() {
    if std::env::var_os("CARGO_FEATURE_LIVE").is_some() {
        libtorch_rpath::main();
    }
}
