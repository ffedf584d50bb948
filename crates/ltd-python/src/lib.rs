//! The native half of the Python package `ltd_policy`: policies that decide in engines written in
//! Python. What it offers is documented in `python/ltd_policy/_native.pyi` and `docs/deploy.md`.

mod arrays;
mod controller;
mod copy_source;
mod policy;
mod sequence;

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

/// What Python's threads share. It is locked for as long as our own code runs, and never while
/// Python's does: another thread may go on there.
struct Shared<T>(Mutex<T>);

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // A panic is a fault of ours, which Python was told of as an exception.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pyo3::create_exception!(
    ltd_policy,
    PackageError,
    pyo3::exceptions::PyValueError,
    "A package that cannot be used: damaged, of another version, or of other models."
);
pyo3::create_exception!(
    ltd_policy,
    SequenceError,
    pyo3::exceptions::PyRuntimeError,
    "A call that a sequence cannot follow: something comes first."
);

/// The module `ltd_policy._native`.
#[pymodule]
fn _native(module: &Bound<PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PackageError", module.py().get_type::<PackageError>())?;
    module.add("SequenceError", module.py().get_type::<SequenceError>())?;
    module.add_class::<policy::Policy>()?;
    module.add_class::<policy::Latency>()?;
    module.add_class::<controller::Controller>()?;
    module.add_class::<sequence::Sequence>()?;
    module.add_class::<sequence::Source>()?;
    module.add_class::<sequence::Verification>()?;
    module.add_class::<copy_source::CopySource>()?;
    module.add_class::<copy_source::Occurrence>()?;
    Ok(())
}
