//! Calls into libraries that panic at some files, such as a `tokenizer.json` that was cut off or a
//! template that breaks out of what is no loop.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is told as an error, and not by the panic hook.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `call`, or the message of its panic, which is told nowhere else. What it leaves
/// behind then is not used again.
pub(super) fn guard<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                others(panic);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    result.map_err(|panic| message(&*panic).to_owned())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(guard(|| 3), Ok(3));
        for number in [1, 2] {
            let error = guard::<()>(|| panic!("at number {number}")).expect_err("a panic");
            assert_eq!(error, format!("at number {number}"));
        }
        assert!(!GUARDED.get());
    }
}
