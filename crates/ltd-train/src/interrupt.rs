//! Ctrl-C: finish the step, save, and say how to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a program that an interrupt ended, as shells report it.
pub const EXIT_CODE: u8 = 130;

/// A wish to stop that a signal, or a test, expresses.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C and the termination signal. A second one ends the program at once.
    ///
    /// # Errors
    /// If the process has a handler already.
    pub fn listen() -> Result<Self, ctrlc::Error> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.requested() {
                std::process::exit(i32::from(EXIT_CODE));
            }
            flag.request();
        })?;
        Ok(interrupt)
    }

    /// Asks to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
