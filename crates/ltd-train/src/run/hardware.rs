//! The name of the hardware, as far as the system tells.

use super::Machine;

/// Name of the processor, or of the graphics card for a CUDA device.
pub(crate) fn name(device: &str) -> String {
    let found = if device == "cpu" { Machine::read().cpu } else { card(device) };
    found.unwrap_or_else(|| "unknown".to_owned())
}

/// Version of the driver of a CUDA device.
pub(crate) fn driver(device: &str) -> Option<String> {
    if device == "cpu" { None } else { value("/proc/driver/nvidia/version", "NVRM version") }
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
