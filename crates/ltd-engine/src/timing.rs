//! The only clock of a cycle.

use std::time::{Duration, Instant};

use tch::Device;

use crate::transfer::Waited;

/// The wall-clock time of a phase that asks something of devices and reads what they found.
pub(crate) struct Clock<'d> {
    devices: &'d [Device],
    start: Instant,
}

impl<'d> Clock<'d> {
    /// Starts once the devices have finished what was asked of them before.
    pub(crate) fn start(devices: &'d [Device]) -> Self {
        Waited::for_devices(devices);
        Self { devices, start: Instant::now() }
    }

    /// Waits for what was asked of the devices since. What is left of the phase is the host's.
    pub(crate) fn wait(&self) -> Waited {
        Waited::for_devices(self.devices)
    }

    /// The time since it started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Runs `work` and returns its result with the wall-clock time it took, devices synchronised at
/// both ends.
pub(crate) fn timed<T>(devices: &[Device], work: impl FnOnce() -> T) -> (T, Duration) {
    let clock = Clock::start(devices);
    let result = work();
    clock.wait();
    (result, clock.elapsed())
}
