//! `c10d::TCPStore`, by way of `native/store.cpp`.

#![expect(unsafe_code, reason = "calls C")]

// Links LibTorch.
use tch as _;

use std::ffi::{CStr, CString, c_char, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::time::Duration;

/// What a call says of itself: nothing, or what went wrong.
type Outcome = *mut c_char;

unsafe extern "C" {
    fn ltd_store_open(
        host: *const c_char,
        port: u16,
        listener: i32,
        timeout_ms: i64,
        store: *mut *mut c_void,
    ) -> Outcome;
    fn ltd_store_free(store: *mut c_void);
    fn ltd_store_set(store: *mut c_void, key: *const c_char, bytes: *const u8, length: usize) -> Outcome;
    fn ltd_store_set_once(store: *mut c_void, key: *const c_char, bytes: *const u8, length: usize)
    -> Outcome;
    fn ltd_store_wait(store: *mut c_void, key: *const c_char, timeout_ms: i64, present: *mut bool)
    -> Outcome;
    fn ltd_store_check(store: *mut c_void, key: *const c_char, present: *mut bool) -> Outcome;
    fn ltd_store_get(
        store: *mut c_void,
        key: *const c_char,
        bytes: *mut *mut u8,
        length: *mut usize,
    ) -> Outcome;
    fn ltd_store_delete(store: *mut c_void, key: *const c_char) -> Outcome;
    fn free(pointer: *mut c_void);
}

/// A connection to the store; with it goes the server, if this process serves it.
#[derive(Debug)]
pub(crate) struct Store(*mut c_void);

// SAFETY: the object behind the pointer is bound to no thread, and is never used by two at once:
// all methods need the one owner.
unsafe impl Send for Store {}

impl Store {
    /// Connects to the store at `host` and `port`, and serves it on `listener` if there is one.
    pub(crate) fn open(
        host: &str,
        port: u16,
        listener: Option<TcpListener>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let host = text(host)?;
        let listener = listener.map_or(-1, IntoRawFd::into_raw_fd);
        let mut store = std::ptr::null_mut();
        // SAFETY: the text ends with a zero and outlives the call; the socket is given away; the
        // place for the result is valid.
        said(unsafe {
            ltd_store_open(host.as_ptr(), port, listener, milliseconds(timeout), &raw mut store)
        })?;
        Ok(Self(store))
    }

    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let key = text(key)?;
        // SAFETY: the store is open; text and bytes outlive the call, which copies them.
        said(unsafe { ltd_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Sets a key that has no value yet.
    pub(crate) fn set_once(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let key = text(key)?;
        // SAFETY: as above.
        said(unsafe { ltd_store_set_once(self.0, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Whether the key has a value, or gets one within `timeout`.
    pub(crate) fn wait(&mut self, key: &str, timeout: Duration) -> Result<bool, String> {
        let key = text(key)?;
        let mut present = false;
        // SAFETY: the store is open, the text outlives the call, the place for the result is valid.
        said(unsafe { ltd_store_wait(self.0, key.as_ptr(), milliseconds(timeout), &raw mut present) })?;
        Ok(present)
    }

    /// The value of a key, if it has one.
    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let key = text(key)?;
        let mut present = false;
        // SAFETY: as above.
        said(unsafe { ltd_store_check(self.0, key.as_ptr(), &raw mut present) })?;
        if !present {
            return Ok(None);
        }
        let (mut bytes, mut length) = (std::ptr::null_mut(), 0);
        // SAFETY: as above; the places for the results are valid.
        said(unsafe { ltd_store_get(self.0, key.as_ptr(), &raw mut bytes, &raw mut length) })?;
        // SAFETY: a call that succeeded has made `length` bytes there.
        let value = unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec();
        // SAFETY: they are from `malloc`, and nobody has them any more.
        unsafe { free(bytes.cast()) };
        Ok(Some(value))
    }

    pub(crate) fn delete(&mut self, key: &str) -> Result<(), String> {
        let key = text(key)?;
        // SAFETY: the store is open, the text outlives the call.
        said(unsafe { ltd_store_delete(self.0, key.as_ptr()) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: it is from `ltd_store_open`, and nobody has it any more.
        unsafe { ltd_store_free(self.0) };
    }
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} has a zero byte"))
}

fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)
}

fn said(outcome: Outcome) -> Result<(), String> {
    if outcome.is_null() {
        return Ok(());
    }
    // SAFETY: it is a text from `strdup`, which ends with a zero.
    let problem = unsafe { CStr::from_ptr(outcome) }.to_string_lossy().into_owned();
    // SAFETY: it is from `malloc`, and nobody has it any more.
    unsafe { free(outcome.cast()) };
    // What follows the first line is where in LibTorch it happened.
    Err(problem.lines().next().unwrap_or_default().to_owned())
}
