//! The wish to stop, looked at between the steps of whatever takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, Result};

/// A wish to stop that a signal, or a test, expresses.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<Wish>);

#[derive(Debug, Default)]
struct Wish {
    requested: AtomicBool,
    looks: AtomicU64,
}

impl Interrupt {
    /// Asks to stop.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Relaxed);
    }

    /// Whether to stop, for whoever gets on with something.
    pub fn requested(&self) -> bool {
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        self.glance()
    }

    /// The same for whoever only waits.
    pub fn glance(&self) -> bool {
        self.0.requested.load(Ordering::Relaxed)
    }

    /// How often [`Interrupt::requested`] was asked: as long as work gets on, it grows.
    pub fn looks(&self) -> u64 {
        self.0.looks.load(Ordering::Relaxed)
    }

    /// Fails with [`Error::Interrupted`] if there is a wish to stop.
    pub fn check(&self) -> Result<()> {
        if self.requested() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
