//! The name of the hardware, as far as the system tells.

use super::Machine;

/// Name of the processor, or of the graphics cards for CUDA devices: once, if several are of one kind.
pub(crate) fn name(devices: &str) -> String {
    let mut names: Vec<String> = devices.split(", ").map(name_of_one).collect();
    names.dedup();
    names.join(", ")
}

fn name_of_one(device: &str) -> String {
    let found = if device == "cpu" { Machine::read().cpu } else { card(device) };
    found.unwrap_or_else(|| "unknown".to_owned())
}

/// Version of the driver of CUDA devices.
pub(crate) fn driver(devices: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_one_kind_have_one_name() {
        let one = name("cpu");
        assert_eq!(name("cpu, cpu"), one);
        assert_eq!(driver("cpu, cpu"), None);
        // No machine has so many cards.
        assert_eq!(name("cpu, cuda:4096, cuda:4097"), format!("{one}, unknown"));
    }
}
