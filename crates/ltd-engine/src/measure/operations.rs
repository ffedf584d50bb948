//! Where the time of a target forward goes.

use std::time::Duration;

use tch::Device;

use crate::cuda::{MomentError, Moments};
use crate::timing::timed;
use crate::transfer::Waited;

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

/// Adds up the time of each operation: on a CUDA device by the moments that it notes itself, which
/// makes nobody wait; else between two waits for all devices.
pub(crate) struct OperationClock<'d> {
    devices: &'d [Device],
    /// In the order of [`Operation::ALL`].
    times: [Duration; Operation::ALL.len()],
    /// Moments before and after each operation, or that one was not noted.
    noted: Option<Result<(Moments, Vec<Operation>), MomentError>>,
}

impl<'d> OperationClock<'d> {
    pub(crate) fn new(devices: &'d [Device]) -> Self {
        let noted = match devices {
            [Device::Cuda(device)] => Moments::of(*device).map(|moments| Ok((moments, Vec::new()))),
            _ => None,
        };
        Self { devices, times: Default::default(), noted }
    }

    /// The times, in the order of [`Operation::ALL`].
    pub(crate) fn times(mut self, waited: &Waited) -> Result<[Duration; Operation::ALL.len()], MomentError> {
        if let Some(noted) = self.noted {
            let (moments, operations) = noted?;
            // What lies between operations is left out.
            for (operation, span) in operations.into_iter().zip(moments.spans(waited)?.into_iter().step_by(2))
            {
                self.times[operation as usize] += span;
            }
        }
        Ok(self.times)
    }
}

impl Observer for OperationClock<'_> {
    fn observe<T>(&mut self, operation: Operation, work: impl FnOnce() -> T) -> T {
        match &mut self.noted {
            None => {
                let (result, elapsed) = timed(self.devices, work);
                self.times[operation as usize] += elapsed;
                result
            }
            Some(Err(_)) => work(),
            Some(Ok((moments, operations))) => {
                let before = moments.note();
                let result = work();
                operations.push(operation);
                if let Err(lost) = before.and(moments.note()) {
                    self.noted = Some(Err(lost));
                }
                result
            }
        }
    }
}
