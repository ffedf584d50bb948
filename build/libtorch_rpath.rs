//! Shared build script of every crate that links LibTorch: writes the folder of its libraries into
//! the run path of the crate's binaries and tests, so that they start without `LD_LIBRARY_PATH`.

#[expect(clippy::print_stdout, reason = "cargo reads it")]
pub(crate) fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_LIB");
    let lib = std::env::var("LIBTORCH_LIB").or_else(|_| std::env::var("LIBTORCH"));
    if let Ok(root) = lib {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{root}/lib");
    }
}
