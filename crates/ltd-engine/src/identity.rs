//! What engines and cycles are known by.

use std::sync::atomic::{AtomicU64, Ordering};

/// Tells an engine, or a cycle, from all others of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    /// One that nothing else has.
    pub(crate) fn new() -> Self {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        Self(GIVEN.fetch_add(1, Ordering::Relaxed))
    }
}
