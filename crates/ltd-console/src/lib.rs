//! How the programs speak: results on standard output, all else on standard error, and exit codes.
//!
//! ```
//! ltd_console::note!("reading 3 files");
//! ltd_console::say!("42 tokens/s")?;
//! # Ok::<(), ltd_console::OutputError>(())
//! ```
//!
//! `println!` panics where nobody reads, and where a disk is full. Here a reader that has gone is
//! no error: the work goes on and ends with the exit code of the work. Standard error is a
//! courtesy, whatever becomes of it. A result that cannot be written for another reason is an
//! error.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// How many of something, in words: `1 prompt`, `2 prompts`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Exit code of a program that an interrupt ended, as shells report it.
pub const INTERRUPTED: u8 = 130;

/// Standard output does not take a result.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub struct OutputError(#[from] std::io::Error);

impl OutputError {
    /// Whether it is that nobody reads any more, as after `| head -1`.
    pub fn reader_has_gone(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints a line of the result.
///
/// Expands to a `Result<(), OutputError>`: see [`print_result`].
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => {
        $crate::print_result(format_args!("{}\n", format_args!($($line)*)))
    };
}

/// Prints a line about the work.
#[macro_export]
macro_rules! note {
    ($($line:tt)*) => {
        $crate::print_note(format_args!($($line)*))
    };
}

/// Prints a part of the result. That nobody reads it any more is no error.
pub fn print_result(text: Arguments) -> Result<(), OutputError> {
    match print_to_reader(text) {
        Err(error) if error.reader_has_gone() => Ok(()),
        other => other,
    }
}

/// [`print_result`] for work that has no other purpose than to be read: that nobody does is an
/// error.
pub fn print_to_reader(text: Arguments) -> Result<(), OutputError> {
    let mut output = std::io::stdout().lock();
    output.write_fmt(text)?;
    // At the end of the program it would fail without a word.
    output.flush()?;
    Ok(())
}

/// Prints a line about the work, where it can be printed.
pub fn print_note(line: Arguments) {
    // At once, so that lines of several threads or programs do not mix.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Readies the process: a file that may not grow any further (`ulimit -f`) is an error of whoever
/// writes it, as a full disk is, where by default the process is killed.
#[cfg_attr(unix, expect(unsafe_code, reason = "tells the C library to ignore a signal"))]
pub fn begin() {
    #[cfg(unix)]
    {
        const SIGXFSZ: i32 = 25;
        const SIG_IGN: usize = 1;
        unsafe extern "C" {
            fn signal(number: i32, handler: usize) -> usize;
        }
        // SAFETY: the declaration is that of the C library, where a handler is a pointer or such a
        // constant. Ignoring a signal installs no code, and no other thread was started yet.
        unsafe { signal(SIGXFSZ, SIG_IGN) };
    }
}

/// Tells why a program fails and gives its exit code: 2 if its input is at fault, else 1.
pub fn fail(program: &str, error: &dyn Display, is_usage: bool) -> ExitCode {
    note!("{program}: {error}");
    ExitCode::from(if is_usage { 2 } else { 1 })
}
