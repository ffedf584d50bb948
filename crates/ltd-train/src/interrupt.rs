//! Ctrl-C: finish the step, save, and say how to go on.

use ltd_env::Interrupt;

/// Has Ctrl-C and the termination signal express the wish to stop. A second one ends the program at once, as
/// the first one does before there is anybody to listen: nothing is lost before there is something to save.
///
/// # Errors
/// If the process has a handler already.
pub fn listen(interrupt: &Interrupt) -> Result<(), ctrlc::Error> {
    let interrupt = interrupt.clone();
    ctrlc::set_handler(move || {
        if interrupt.requested() {
            std::process::exit(i32::from(ltd_console::INTERRUPTED));
        }
        interrupt.request();
    })
}
