//! Functions of CUDA's libraries that do nothing: of all that LibTorch's CUDA half asks for.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use object::elf::FileHeader64;
use object::read::ReadCache;
use object::read::elf::{FileHeader, SectionHeader, Sym, Version};
use object::{Endianness, ReadRef, SymbolIndex};

/// Libraries that LibTorch's CUDA half is linked to, beside the runtime.
pub(crate) const LIBRARIES: [&str; 12] = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvshmem_host.so.3",
    "libcuda.so.1",
    "libnvrtc.so.13",
];

/// Those of them that are the driver and the run-time compiler.
pub(crate) const DRIVER: [&str; 2] = ["libcuda.so.1", "libnvrtc.so.13"];

/// LibTorch's CUDA half; not every LibTorch has all of it.
const TORCH: [&str; 4] = ["libtorch_cuda.so", "libc10_cuda.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"];

/// Beginnings of the names of functions that have no versions.
const UNVERSIONED: [&str; 6] = ["cusparseLt", "nccl", "pnccl", "cuFile", "nvshmem", "curand"];

/// Functions that are asked for.
#[derive(Default)]
pub(crate) struct Wanted {
    runtime: BTreeSet<String>,
    libraries: BTreeSet<String>,
    driver: BTreeSet<String>,
}

/// What LibTorch's CUDA half in a folder asks for.
pub(crate) fn wanted(lib: &Path) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    for name in TORCH {
        let path = lib.join(name);
        let problem = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(problem(&error)),
        };
        wanted.add(&ReadCache::new(file)).map_err(|error| problem(&error))?;
    }
    Ok(wanted)
}

impl Wanted {
    /// What a library asks of others.
    fn add<'d>(&mut self, data: impl ReadRef<'d>) -> object::Result<()> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, data)?;
        let symbols = sections.symbols(endian, data, object::elf::SHT_DYNSYM)?;
        let versions = sections.versions(endian, data)?;
        for (place, symbol) in symbols.iter().enumerate().filter(|(_, symbol)| symbol.is_undefined(endian)) {
            let name = String::from_utf8_lossy(symbol.name(endian, symbols.strings())?).into_owned();
            let version = versions.as_ref().and_then(|versions| {
                let index = versions.version_index(endian, SymbolIndex(place));
                versions.version(index).ok().flatten().map(Version::name)
            });
            match version.map(String::from_utf8_lossy).as_deref() {
                Some("libcudart.so.13") => self.runtime.insert(name),
                Some(version) if version.starts_with("libc") || version.starts_with("NVSHMEM") => {
                    self.libraries.insert(name)
                }
                _ if UNVERSIONED.iter().any(|start| name.starts_with(start)) => self.libraries.insert(name),
                _ if is_of_driver(&name) || name.starts_with("nvrtc") => self.driver.insert(name),
                _ => false,
            };
        }
        // The driver's functions are looked up by name.
        for section in sections.iter() {
            if sections.section_name(endian, section)? == b".rodata" {
                let texts = section.data(endian, data)?;
                self.driver.extend(words(texts).filter(|word| is_of_driver(word)).map(str::to_owned));
            }
        }
        Ok(())
    }

    /// Functions of the runtime that nobody has written: each says so and fails.
    pub(crate) fn runtime(&self) -> String {
        let mut text = "int ltd_sim_missing(const char*);\n".to_owned();
        for name in &self.runtime {
            let _ = writeln!(
                text,
                "__attribute__((weak)) int {name}(void) {{ return ltd_sim_missing(\"{name}\"); }}"
            );
        }
        text
    }

    /// Functions of the other libraries. Those that would launch kernels are counted as one launch;
    /// those that make something give a piece of memory.
    pub(crate) fn libraries(&self) -> String {
        let mut text = "#include <stdlib.h>\nvoid ltd_sim_launch(const char*, size_t, void**);\n".to_owned();
        for name in &self.libraries {
            let function = match name.as_str() {
                // One algorithm is found, at the place of the last argument.
                "cublasLtMatmulAlgoGetHeuristic" => {
                    "(void* a, void* b, void* c, void* d, void* e, void* f, void* g, int h, void* i, int* n) \
                     { *n = 1; return 0; }"
                        .to_owned()
                }
                "cublasGetMathMode" | "cublasGetPointerMode_v2" => {
                    "(void* of, int* mode) { *mode = 0; return 0; }".to_owned()
                }
                "cublasLtGetVersion" => "(void) { return 130100; }".to_owned(),
                "cudnnGetVersion" => "(void) { return 91900; }".to_owned(),
                name if name.contains("ErrorString") || name.contains("GetLastError") => {
                    let _ = writeln!(text, "const char* {name}(void) {{ return \"simulated\"; }}");
                    continue;
                }
                name if name.contains("Create") => {
                    "(void** made) { *made = malloc(4096); return 0; }".to_owned()
                }
                name if launches(name) => launching(name),
                // Nothing may be planned with cuDNN.
                name if name.starts_with("cudnn") && !is_bookkeeping(name) => {
                    format!("(void) {{ ltd_sim_launch(\"{name}\", 0, NULL); return 3000; }}")
                }
                _ => "(void) { return 0; }".to_owned(),
            };
            let _ = writeln!(text, "int {name}{function}");
        }
        text
    }

    /// Functions of the driver and of the run-time compiler.
    pub(crate) fn driver(&self) -> String {
        let mut text = "int ltd_sim_has_context(int);\n\
                        int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) \
                        { *flags = 0; *active = ltd_sim_has_context(device); return 0; }\n\
                        int cuCtxGetCurrent(void** context) { static int it; *context = &it; return 0; }\n\
                        int cuGetErrorString(int error, const char** text) { *text = \"simulated\"; return 0; }\n"
            .to_owned();
        let written = ["cuDevicePrimaryCtxGetState", "cuCtxGetCurrent", "cuGetErrorString"];
        for name in self.driver.iter().filter(|name| !written.contains(&name.as_str())) {
            let _ = writeln!(text, "int {name}(void) {{ return 0; }}");
        }
        text
    }
}

/// Products and the like.
fn launches(name: &str) -> bool {
    let lower = name.to_lowercase();
    ["gemm", "gemv", "dot", "trsm"].iter().any(|part| lower.contains(part))
        || name.ends_with("LtMatmul")
        || name.contains("cudnnBackendExecute")
}

/// A function that would launch. Of products that LibTorch takes, its arguments are numbers and
/// pointers: all of a word.
fn launching(name: &str) -> String {
    let count = match name {
        "cublasGemmEx" => 19,
        "cublasGemmStridedBatchedEx" => 23,
        "cublasLtMatmul" => 16,
        "cublasSgemm_v2" => 14,
        _ => 0,
    };
    let list = |part: fn(usize) -> String| (0..count).map(part).collect::<Vec<_>>().join(", ");
    let parameters = if count == 0 { "void".to_owned() } else { list(|i| format!("void* a{i}")) };
    let arguments = if count == 0 { "NULL".to_owned() } else { list(|i| format!("a{i}")) };
    format!(
        "({parameters}) {{ void* all[] = {{ {arguments} }}; ltd_sim_launch(\"{name}\", {count}, all); return 0; }}"
    )
}

fn is_bookkeeping(name: &str) -> bool {
    ["SetStream", "GetStream", "Destroy"].iter().any(|part| name.contains(part))
}

/// `cuMemAlloc` and the like, not `cudaMalloc` or `cublasCreate`.
fn is_of_driver(name: &str) -> bool {
    name.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
        && !name.starts_with("cuFile")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Texts of at least six characters, each up to a zero.
fn words(data: &[u8]) -> impl Iterator<Item = &str> {
    data.split(|&byte| byte == 0)
        .filter(|word| (6..64).contains(&word.len()))
        .filter_map(|word| str::from_utf8(word).ok())
}
