//! Where the time of a target forward goes.

use std::time::Duration;

use tch::Device;

use crate::timing::timed;

/// A part of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Attention of all layers, with the norms before it and its projections.
    Attention,
    /// MLP of all layers: norms, products, activation and residual.
    Mlp,
    /// The last norm and the logits.
    Logits,
}

impl Operation {
    /// All of them, in the order in which a layer comes to them.
    pub const ALL: [Self; 3] = [Self::Attention, Self::Mlp, Self::Logits];
}

/// Is told of each operation of a forward.
pub(crate) trait Observer {
    fn observe<T>(&mut self, operation: Operation, work: impl FnOnce() -> T) -> T;
}

/// Nobody looks: forwards that are not measured in parts.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn observe<T>(&mut self, _operation: Operation, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// Adds up the time of each operation, devices synchronised at both ends.
pub(crate) struct OperationClock<'d> {
    pub(crate) devices: &'d [Device],
    /// In the order of [`Operation::ALL`].
    pub(crate) times: [Duration; Operation::ALL.len()],
}

impl Observer for OperationClock<'_> {
    fn observe<T>(&mut self, operation: Operation, work: impl FnOnce() -> T) -> T {
        let (result, elapsed) = timed(self.devices, work);
        self.times[operation as usize] += elapsed;
        result
    }
}
