//! The CUDA path on a machine without a GPU, in two rehearsals that each know half of it:
//!
//! - [`Values`] simulates devices whose results are real. A host read of device memory ends the
//!   process, memory that was not written is NaN, tensors of two devices do not mix. Speed is
//!   nothing to go by.
//! - [`Runtime`] is LibTorch's own CUDA half on a runtime that computes nothing. Launches, copies,
//!   waits and allocations are exact, at any size of model. All values are zeros.
//!
//! What neither shows: CUDA's arithmetic, races between streams, limits of kernels.
//!
//! Both are shared libraries that `build/main.rs` compiles for the LibTorch in use. A program runs
//! on one of them when it finds it in place of the real library: [`Values::rehearse`] and
//! [`Runtime::rehearse`] see to that.

mod trace;

use std::path::Path;
use std::process::Command;

pub use trace::{Event, Phase, Wait, phases, phases_on, read_trace};

/// Folder of LibTorch's libraries.
const TORCH: &str = env!("LTD_SIM_TORCH");

/// Devices of a simulated machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// How many there are.
    pub devices: usize,
    /// Bytes of each.
    pub memory: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self { devices: 1, memory: 80 << 30 }
    }
}

impl Machine {
    fn describe(self, command: &mut Command) {
        command.env("LTD_SIM_DEVICES", self.devices.to_string());
        command.env("LTD_SIM_MEMORY", self.memory.to_string());
    }
}

/// Devices with real values.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values(pub Machine);

impl Values {
    /// Has a program find the devices when it starts.
    pub fn rehearse(self, command: &mut Command) {
        self.0.describe(command);
        replace_libraries(command, env!("LTD_SIM_VALUES"), "libtorch_cuda.so".to_owned());
    }
}

/// Has a program find a LibTorch that says that it is of version 2.10.0.
pub fn rehearse_another_version(command: &mut Command) {
    replace_libraries(command, env!("LTD_SIM_VALUES"), "libltd_sim_version.so".to_owned());
}

/// LibTorch's own CUDA half, on a runtime that computes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Runtime {
    /// The devices.
    pub machine: Machine,
    /// Compute capability, 90 for 9.0.
    pub capability: u32,
}

impl Runtime {
    /// Devices of a compute capability.
    ///
    /// # Errors
    /// What is missing, where LibTorch has no CUDA half.
    pub fn new(machine: Machine, capability: u32) -> Result<Self, &'static str> {
        match env!("LTD_SIM_RUNTIME_MISSING") {
            "" => Ok(Self { machine, capability }),
            missing => Err(missing),
        }
    }

    /// Has a program find the devices when it starts, and append what it does with them to a
    /// file: [`read_trace`].
    pub fn rehearse(self, command: &mut Command, trace: &Path) {
        self.machine.describe(command);
        command.env("LTD_SIM_CAPABILITY", self.capability.to_string()).env("LTD_SIM_TRACE", trace);
        // All of them: LibTorch's own run path, where the real ones may be, goes before ours.
        let first = ["libcudart.so.13", env!("LTD_SIM_LIBRARIES")].join(":");
        replace_libraries(command, env!("LTD_SIM_RUNTIME"), first);
    }
}

/// Has a program look for libraries in a folder first. Some are loaded before all, by their names:
/// LibTorch's CPU half would bring the real ones. (A path may hold a blank, which divides them.)
fn replace_libraries(command: &mut Command, folder: &str, first: String) {
    let own = std::env::var("LD_LIBRARY_PATH").map(|own| format!(":{own}")).unwrap_or_default();
    command.env("LD_LIBRARY_PATH", format!("{folder}:{TORCH}{own}"));
    command.env("LD_PRELOAD", first);
}
