//! Builds both rehearsals for the LibTorch that the workspace links: `values` and `runtime`.
#![expect(clippy::print_stdout, reason = "cargo reads it")]

mod stubs;

use std::path::{Path, PathBuf};
use std::process::Command;

/// For files of functions that have the names of others: what they take and return is not theirs.
const PLAIN_C: [&str; 3] = ["-x", "c", "-fno-builtin"];

/// What a build returns: an error is a text.
type Result<T> = std::result::Result<T, String>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=CXX");
    for folder in ["build", "values", "runtime"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let torch = std::env::var("LIBTORCH").map_err(|_| "LIBTORCH is not set: run scripts/setup".to_owned())?;
    let torch = std::fs::canonicalize(&torch).map_err(|problem| format!("LIBTORCH: {torch}: {problem}"))?;
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let values = folder(&out, "values")?;
    build_values(&torch, &values)?;
    println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{}/lib", torch.display());
    println!("cargo:rustc-env=LTD_SIM_TORCH={}", torch.join("lib").display());
    println!("cargo:rustc-env=LTD_SIM_VALUES={}", values.display());
    let (runtime, missing) = match cuda_headers(&torch) {
        Ok(headers) => {
            let runtime = folder(&out, "runtime")?;
            build_runtime(&torch, &headers, &runtime)?;
            (runtime.display().to_string(), String::new())
        }
        Err(missing) => (String::new(), missing),
    };
    println!("cargo:rustc-env=LTD_SIM_RUNTIME={runtime}");
    println!("cargo:rustc-env=LTD_SIM_RUNTIME_MISSING={missing}");
    Ok(())
}

/// A new folder.
fn folder(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    let problem = |problem| format!("{}: {problem}", path.display());
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(problem)?;
    }
    std::fs::create_dir_all(&path).map_err(problem)?;
    Ok(path)
}

/// Where the headers of LibTorch's CUDA runtime are; an error says what of LibTorch's CUDA half is
/// missing.
fn cuda_headers(torch: &Path) -> Result<PathBuf> {
    let headers = torch.with_file_name("nvidia").join("cu13/include");
    for needed in [torch.join("lib/libtorch_cuda.so"), headers.join("cuda_runtime_api.h")] {
        if !needed.is_file() {
            return Err(format!("{} is missing", needed.display()));
        }
    }
    Ok(headers)
}

fn build_values(torch: &Path, out: &Path) -> Result<()> {
    let lib = torch.join("lib");
    let mut compiler = shared_library(&out.join("libtorch_cuda.so"));
    compiler
        .args(["-std=c++20", "-O1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"])
        .arg("-isystem")
        .arg(torch.join("include"))
        .arg("-isystem")
        .arg(torch.join("include/torch/csrc/api/include"))
        .arg("values/libtorch_cuda.cpp")
        .arg("-L")
        .arg(&lib)
        .args(["-ltorch_cpu", "-lc10"])
        .arg(format!("-Wl,-rpath,{}", lib.display()));
    run(&mut compiler)
}

fn build_runtime(torch: &Path, headers: &Path, out: &Path) -> Result<()> {
    let wanted = stubs::wanted(&torch.join("lib"))?;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok::<PathBuf, String>(path)
    };
    // Symbols of the runtime have versions, by which the real one, which LibTorch's CPU half
    // brings along, would be preferred.
    let versions = write("runtime.map", "libcudart.so.13 { global: *; };\n")?;
    let missing = write("missing.c", &wanted.runtime())?;
    let mut runtime = shared_library(&out.join("libcudart.so.13"));
    runtime.args([
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-I",
        "runtime",
        "-isystem",
    ]);
    runtime.arg(headers).arg("runtime/libcudart.cpp").args(PLAIN_C).arg(&missing);
    runtime.arg(format!("-Wl,--version-script={}", versions.display()));
    run(&mut runtime)?;

    let libraries = write("libraries.c", &wanted.libraries())?;
    let all = out.join("libltd_sim_libraries.so");
    run(shared_library(&all).args(PLAIN_C).arg(&libraries).arg("-L").arg(out).arg("-l:libcudart.so.13"))?;
    for name in stubs::LIBRARIES {
        let mut named = shared_library(&out.join(name));
        named.arg("-Wl,--no-as-needed").arg("-L").arg(out).arg("-lltd_sim_libraries");
        run(&mut named)?;
    }
    let driver = write("driver.c", &wanted.driver())?;
    for name in ["libcuda.so.1", "libnvrtc.so.13"] {
        run(shared_library(&out.join(name)).args(PLAIN_C).arg(&driver))?;
    }
    Ok(())
}

/// The C++ compiler, to make a library of this name.
fn shared_library(path: &Path) -> Command {
    let name = path.file_name().expect("a library's name").to_string_lossy();
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()));
    compiler.args(["-shared", "-fPIC"]).arg(format!("-Wl,-soname,{name}")).arg("-o").arg(path);
    compiler
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|problem| format!("{command:?}: {problem}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr)))
}
