//! Ctrl-C: finish the step, save, and say how to go on.

pub use ltd_env::Interrupt;

use crate::Result;

/// Has Ctrl-C and the termination signal express the wish to stop. A second one ends the program at
/// once, as the first one does before there is anybody to listen: nothing is lost before there is
/// something to save.
///
/// # Errors
/// If the process has a handler already.
pub fn listen(interrupt: &Interrupt) -> Result<()> {
    listen_unless(interrupt, || false)
}

/// [`listen`] from the beginning of a program: as long as `abandoned` says that there is nothing to
/// save, for which it tidies up, the first signal ends the program.
///
/// # Errors
/// If the process has a handler already.
pub fn listen_unless(interrupt: &Interrupt, abandoned: impl Fn() -> bool + Send + 'static) -> Result<()> {
    let interrupt = interrupt.clone();
    let set = ctrlc::set_handler(move || {
        if interrupt.glance() || abandoned() {
            std::process::exit(i32::from(ltd_console::INTERRUPTED));
        }
        interrupt.request();
    });
    Ok(set?)
}
