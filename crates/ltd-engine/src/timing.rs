//! The only clock of a cycle.

use std::time::{Duration, Instant};

use tch::Device;

use crate::device::synchronize;

/// Runs `work` and returns its result with the wall-clock time it took, device synchronised at both
/// ends.
pub(crate) fn timed<T>(device: Device, work: impl FnOnce() -> T) -> (T, Duration) {
    synchronize(device);
    let start = Instant::now();
    let result = work();
    synchronize(device);
    (result, start.elapsed())
}
