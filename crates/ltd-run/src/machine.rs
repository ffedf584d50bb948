//! The machine that a figure is of, as far as the system tells, and the source that made it.

use std::process::Command;

use serde::Serialize;

/// The machine, as far as the system tells.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the processor; virtual machines often give no more than the maker's.
    pub cpu: Option<String>,
    /// The maker's number of its family and model, which tell generations apart.
    pub cpu_family: Option<u32>,
    /// See `cpu_family`.
    pub cpu_model: Option<u32>,
    /// Those of its instruction sets that decide which kernels run.
    pub cpu_flags: Vec<String>,
    /// Threads that run at once.
    pub cores: usize,
    /// Memory.
    pub memory_gib: Option<u64>,
}

/// Instruction sets that matrix products are written for, as Linux calls them.
const KERNEL_FLAGS: [&str; 8] =
    ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"];

impl Machine {
    /// Asks the system.
    pub fn read() -> Self {
        let memory_kib = value("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()));
        let number = |key: &str| value("/proc/cpuinfo", key).and_then(|text| text.parse().ok());
        let flags = value("/proc/cpuinfo", "flags").unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        Self {
            cpu: value("/proc/cpuinfo", "model name"),
            cpu_family: number("cpu family"),
            // Not "model name", which begins alike.
            cpu_model: number("model\t"),
            cpu_flags: KERNEL_FLAGS
                .iter()
                .filter(|flag| flags.contains(flag))
                .map(ToString::to_string)
                .collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib.map(|kib| kib >> 20),
        }
    }
}

/// Name of the processor, or of the graphics cards for CUDA devices: once, if several are of one
/// kind.
pub fn device_model(devices: &str) -> String {
    let mut names: Vec<String> = devices.split(", ").map(name_of_one).collect();
    names.dedup();
    names.join(", ")
}

fn name_of_one(device: &str) -> String {
    let found = if device == "cpu" { Machine::read().cpu } else { card(device) };
    found.unwrap_or_else(|| "unknown".to_owned())
}

/// Version of the driver of CUDA devices.
pub fn driver(devices: &str) -> Option<String> {
    if devices.contains("cuda") { value("/proc/driver/nvidia/version", "NVRM version") } else { None }
}

fn card(device: &str) -> Option<String> {
    let number: usize = device.split_once(':').map_or(Some(0), |(_, number)| number.parse().ok())?;
    let mut folders: Vec<_> =
        std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    value(folders.get(number)?.join("information").to_str()?, "Model")
}

fn value(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// Commit of the working folder's repository, with `-dirty` if it has changes; `None` outside a
/// repository.
pub fn git_revision() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_one_kind_have_one_name() {
        let one = device_model("cpu");
        assert_eq!(device_model("cpu, cpu"), one);
        assert_eq!(driver("cpu, cpu"), None);
        // No machine has so many cards.
        assert_eq!(device_model("cpu, cuda:4096, cuda:4097"), format!("{one}, unknown"));
    }
}
