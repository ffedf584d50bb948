//! Builds both rehearsals for the LibTorch that the workspace links: `values` and `runtime`.
#![expect(clippy::print_stdout, reason = "cargo reads it")]

mod stubs;

use std::path::{Path, PathBuf};
use std::process::Command;

/// For files of functions that have the names of others: what they take and return is not theirs.
const PLAIN_C: [&str; 3] = ["-x", "c", "-fno-builtin"];

/// What a build returns: an error is a text.
type Result<T> = std::result::Result<T, String>;

/// A LibTorch.
struct Torch {
    /// Its headers.
    include: PathBuf,
    /// Its libraries.
    lib: PathBuf,
}

impl Torch {
    /// The one that the bindings link, named as they have it named.
    fn find() -> Result<Self> {
        let folder = |own: &str, name: &str| {
            let root = [own, "LIBTORCH"].into_iter().find_map(|name| std::env::var(name).ok());
            let root = PathBuf::from(root.ok_or("LIBTORCH is not set: run scripts/setup")?).join(name);
            std::fs::canonicalize(&root).map_err(|problem| format!("{}: {problem}", root.display()))
        };
        Ok(Self { include: folder("LIBTORCH_INCLUDE", "include")?, lib: folder("LIBTORCH_LIB", "lib")? })
    }

    /// Where the headers of its CUDA runtime are; an error says what of its CUDA half is missing.
    fn cuda_headers(&self) -> Result<PathBuf> {
        let packages = self.lib.ancestors().nth(2).unwrap_or(&self.lib);
        let headers = packages.join("nvidia/cu13/include");
        for needed in [self.lib.join("libtorch_cuda.so"), headers.join("cuda_runtime_api.h")] {
            if !needed.is_file() {
                return Err(format!("{} is missing", needed.display()));
            }
        }
        Ok(headers)
    }
}

fn main() -> Result<()> {
    for variable in ["LIBTORCH", "LIBTORCH_LIB", "LIBTORCH_INCLUDE", "CXX"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let torch = Torch::find()?;
    let read = ["libtorch_cpu.so", "libtorch_cuda.so"].map(|name| torch.lib.join(name));
    for path in ["build", "values", "runtime"].map(PathBuf::from).into_iter().chain(read) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let values = folder(&out, "values")?;
    build_values(&torch, &values)?;
    println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{}", torch.lib.display());
    println!("cargo:rustc-env=LTD_SIM_TORCH={}", torch.lib.display());
    println!("cargo:rustc-env=LTD_SIM_VALUES={}", values.display());
    let (runtime, missing) = match torch.cuda_headers() {
        Ok(headers) => {
            let runtime = folder(&out, "runtime")?;
            build_runtime(&torch, &headers, &runtime)?;
            (runtime.display().to_string(), String::new())
        }
        Err(missing) => {
            println!("cargo:warning=the runtime rehearsal of CUDA is left out: {missing}");
            (String::new(), missing)
        }
    };
    println!("cargo:rustc-env=LTD_SIM_RUNTIME={runtime}");
    println!("cargo:rustc-env=LTD_SIM_RUNTIME_MISSING={missing}");
    println!("cargo:rustc-env=LTD_SIM_LIBRARIES={}", stubs::LIBRARIES.join(":"));
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

/// Of both libraries that are written in C++.
const WARNINGS: [&str; 3] = ["-Wall", "-Wextra", "-Wno-unused-parameter"];

fn build_values(torch: &Torch, out: &Path) -> Result<()> {
    let mut compiler = shared_library(&out.join("libtorch_cuda.so"));
    compiler.args(["-std=c++20", "-O1", "-fvisibility=hidden"]).args(WARNINGS);
    for headers in [&torch.include, &torch.include.join("torch/csrc/api/include")] {
        compiler.arg("-isystem").arg(headers);
    }
    run(shared_library(&out.join("libltd_sim_version.so")).args(PLAIN_C).arg("values/another_version.c"))?;
    compiler
        .args(["values/libtorch_cuda.cpp", "values/graphs.cpp"])
        .arg("-L")
        .arg(&torch.lib)
        .args(["-ltorch_cpu", "-lc10"]);
    run(compiler.arg(format!("-Wl,-rpath,{}", torch.lib.display())))
}

fn build_runtime(torch: &Torch, headers: &Path, out: &Path) -> Result<()> {
    let wanted = stubs::wanted(&torch.lib)?;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok::<PathBuf, String>(path)
    };
    // Symbols of the runtime have versions, by which the real one, which LibTorch's CPU half
    // brings along, would be preferred.
    let versions = write("runtime.map", "libcudart.so.13 { global: *; };\n")?;
    let (source, missing) = (write("missing.c", &wanted.runtime())?, out.join("missing.o"));
    run(compiler().arg("-c").args(PLAIN_C).arg(&source).arg("-o").arg(&missing))?;
    let mut runtime = shared_library(&out.join("libcudart.so.13"));
    runtime.args(["-std=c++17", "-O1", "-I", "runtime", "-isystem"]).arg(headers).args(WARNINGS);
    runtime.arg("runtime/libcudart.cpp").arg(&missing);
    run(runtime.arg(format!("-Wl,--version-script={}", versions.display())))?;

    // What the engine keeps for a graph is enough for LibTorch's.
    let kept = "../ltd-engine/native/cuda_graph_bytes";
    println!("cargo:rerun-if-changed={kept}");
    let kept = std::fs::read_to_string(kept).map_err(|problem| format!("{kept}: {problem}"))?;
    let mut sizes = compiler();
    sizes.args(["-std=c++20", "-fsyntax-only", "-I", "runtime", "-isystem"]).arg(headers);
    sizes.arg("-isystem").arg(&torch.include).arg(format!("-DLTD_CUDA_GRAPH_BYTES={}", kept.trim()));
    run(sizes.arg("runtime/graph_size.cpp"))?;

    let to_runtime = |library: &mut Command| run(library.arg("-L").arg(out).arg("-l:libcudart.so.13"));
    let libraries = write("libraries.c", &wanted.libraries())?;
    let all = "libltd_sim_libraries.so";
    to_runtime(shared_library(&out.join(all)).args(PLAIN_C).arg(&libraries))?;
    let driver = write("driver.c", &wanted.driver())?;
    for name in stubs::LIBRARIES {
        let mut library = shared_library(&out.join(name));
        if stubs::DRIVER.contains(&name) {
            to_runtime(library.args(PLAIN_C).arg(&driver))?;
        } else {
            run(library.arg("-Wl,--no-as-needed").arg("-L").arg(out).arg("-lltd_sim_libraries"))?;
        }
    }
    Ok(())
}

/// The C++ compiler, as `CXX` has it, with the arguments that may stand there.
fn compiler() -> Command {
    let named = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut words = named.split_whitespace();
    let mut compiler = Command::new(words.next().unwrap_or("c++"));
    compiler.args(words).arg("-fPIC");
    compiler
}

/// The compiler, to make a library of this name.
fn shared_library(path: &Path) -> Command {
    let name = path.file_name().expect("a library's name").to_string_lossy();
    let mut compiler = compiler();
    compiler.arg("-shared").arg(format!("-Wl,-soname,{name}")).arg("-o").arg(path);
    compiler
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|problem| format!("{command:?}: {problem}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}:\n{said}"));
    }
    for line in said.lines() {
        println!("cargo:warning={line}");
    }
    Ok(())
}
