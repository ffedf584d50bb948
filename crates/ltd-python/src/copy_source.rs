//! The copy source.

use ltd_policy::MAX_SIZE;
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::Shared;
use crate::arrays::tokens;

/// Finds the longest earlier occurrence of the latest tokens of a growing text.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct CopySource {
    inner: Shared<ltd_cycle::CopySource>,
}

const _: () = assert!(ltd_policy::LONGEST_MATCH == 16, "the default of CopySource");

/// More of the latest tokens than are ever compared.
const LONGEST_LIMIT: usize = 4096;

/// An earlier occurrence of the latest tokens.
#[pyclass(frozen, eq, get_all, module = "ltd_policy")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Occurrence {
    /// Tokens that are the same, up to the limit.
    length: usize,
    /// Number of the token that followed the latest occurrence.
    end: usize,
    /// Earlier occurrences.
    occurrences: usize,
    /// Those that were followed by the same token as the latest one.
    agreeing: usize,
}

#[pymethods]
impl CopySource {
    #[new]
    // Python's tools read the default here: that of a sequence.
    #[pyo3(signature = (limit=16))]
    fn new(limit: usize) -> PyResult<Self> {
        if !(1..=LONGEST_LIMIT).contains(&limit) {
            let problem = format!("limit: expected 1 to {LONGEST_LIMIT}, found {limit}");
            return Err(PyValueError::new_err(problem));
        }
        Ok(Self { inner: Shared::new(ltd_cycle::CopySource::new(limit)) })
    }

    /// Adds the next tokens.
    fn extend(&self, tokens: &Bound<PyAny>) -> PyResult<()> {
        let tokens = self::tokens("tokens", tokens)?;
        self.inner.lock().extend(&tokens);
        Ok(())
    }

    /// The longest earlier occurrence, of which the latest.
    fn find(&self) -> Option<Occurrence> {
        let ltd_cycle::Occurrence { length, end, occurrences, agreeing } = self.inner.lock().find()?;
        Some(Occurrence { length, end, occurrences, agreeing })
    }

    /// The `length` tokens that followed it; none where nothing matches.
    fn chain<'py>(&self, py: Python<'py>, length: usize) -> PyResult<Bound<'py, PyArray1<u32>>> {
        if length > MAX_SIZE {
            return Err(PyValueError::new_err(format!(
                "length: expected at most {MAX_SIZE}, found {length}"
            )));
        }
        let source = self.inner.lock();
        let chain = source.find().map(|found| source.chain(found, length)).unwrap_or_default();
        drop(source);
        Ok(chain.into_pyarray(py))
    }

    fn __len__(&self) -> usize {
        self.inner.lock().tokens().len()
    }
}
