//! What crosses the border: arguments of C programs, and failures as they see them.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ltd_cycle::SequenceError;

use crate::Status;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Argument(String),
    #[error(transparent)]
    Package(#[from] ltd_policy::Error),
    #[error("{what}: expected an open {what}, found {handle:#x}")]
    Handle { what: &'static str, handle: u64 },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("the sequence failed before: close it")]
    Broken,
    #[error("a fault of libltdpolicy: {0}")]
    Fault(String),
}

impl Failure {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Package(_) => Status::Package,
            Self::Handle { .. } => Status::Handle,
            Self::Sequence(SequenceError::Order { .. } | SequenceError::Depth { .. }) => Status::Order,
            Self::Argument(_) | Self::Sequence(_) => Status::Argument,
            Self::Broken | Self::Fault(_) => Status::Fault,
        }
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

thread_local! {
    /// What was wrong with the latest call of this thread that failed.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a call: failures become a status and a text, panics a fault.
pub(crate) fn call(run: impl FnOnce() -> Result<()>) -> Status {
    // What a panic leaves behind is a sequence whose lock says so, and tables whose values are
    // whole.
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Failure::Fault(text.to_owned()))
    });
    let Err(failure) = result else { return Status::Ok };
    let text = failure.to_string().replace('\0', " ");
    let _ = LAST_ERROR.try_with(|last| last.replace(CString::new(text).unwrap_or_default()));
    failure.status()
}

/// What was wrong with the latest call of this thread that failed.
pub(crate) fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The text that an argument points to; none of a null pointer.
///
/// # Safety
/// A pointer that is not null points to text that ends with 0.
pub(crate) unsafe fn text<'c>(name: &str, pointer: *const c_char) -> Result<Option<&'c str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller says that text ends here, and keeps it until the call is over.
    let text = unsafe { CStr::from_ptr(pointer) }.to_str();
    text.map(Some).map_err(|_| Failure::Argument(format!("{name}: expected UTF-8")))
}

/// The numbers that an argument points to.
///
/// # Safety
/// A pointer that is not null points to so many numbers.
pub(crate) unsafe fn numbers<'c, T>(name: &str, pointer: *const T, count: usize) -> Result<&'c [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check_pointer(name, pointer)?;
    // SAFETY: the caller says that the numbers are there, and keeps them until the call is over; a
    // count that memory cannot hold was refused.
    check_count(name, count).map(|()| unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Writes a result to where an argument points.
///
/// # Safety
/// A pointer that is not null points to room for it.
pub(crate) unsafe fn write<T>(name: &str, pointer: *mut T, value: T) -> Result<()> {
    check_pointer(name, pointer)?;
    // SAFETY: there is room for it, the caller says.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Writes results to where an argument points, if that is anywhere.
///
/// # Safety
/// A pointer that is not null points to room for as many as there are.
pub(crate) unsafe fn write_all<T>(
    name: &str,
    pointer: *mut T,
    values: impl Iterator<Item = T>,
) -> Result<()> {
    if pointer.is_null() {
        return Ok(());
    }
    check_pointer(name, pointer)?;
    for (place, value) in values.enumerate() {
        // SAFETY: there is room for each of them, the caller says.
        unsafe { pointer.add(place).write(value) };
    }
    Ok(())
}

/// The most numbers of an argument: no text is longer.
const MOST_NUMBERS: usize = 1 << 31;

pub(crate) fn check_pointer<T>(name: &str, pointer: *const T) -> Result<()> {
    if pointer.is_null() {
        return Err(Failure::Argument(format!("{name}: expected a pointer, found null")));
    }
    if !pointer.is_aligned() {
        let alignment = align_of::<T>();
        let problem = format!("{name}: expected a pointer aligned to {alignment} bytes, found {pointer:?}");
        return Err(Failure::Argument(problem));
    }
    Ok(())
}

fn check_count(name: &str, count: usize) -> Result<()> {
    if count > MOST_NUMBERS {
        let problem = format!("{name}: expected at most {MOST_NUMBERS} numbers, found {count}");
        return Err(Failure::Argument(problem));
    }
    Ok(())
}

pub(crate) fn check_room(name: &str, capacity: usize, needed: usize) -> Result<()> {
    if capacity < needed {
        return Err(Failure::Argument(format!("{name}: expected room for {needed}, found {capacity}")));
    }
    Ok(())
}
