//! The copy source.

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays::tokens;

/// Finds the longest earlier occurrence of the latest tokens of a growing text.
#[pyclass(module = "ltd_policy")]
pub(crate) struct CopySource {
    inner: ltd_cycle::CopySource,
}

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
    #[pyo3(signature = (limit=ltd_policy::LONGEST_MATCH))]
    fn new(limit: usize) -> PyResult<Self> {
        if limit == 0 {
            return Err(PyValueError::new_err("limit: expected at least 1, found 0"));
        }
        Ok(Self { inner: ltd_cycle::CopySource::new(limit) })
    }

    /// Adds the next tokens.
    fn extend(&mut self, tokens: &Bound<PyAny>) -> PyResult<()> {
        self.inner.extend(&self::tokens("tokens", tokens)?);
        Ok(())
    }

    /// The longest earlier occurrence, of which the latest.
    fn find(&self) -> Option<Occurrence> {
        let ltd_cycle::Occurrence { length, end, occurrences, agreeing } = self.inner.find()?;
        Some(Occurrence { length, end, occurrences, agreeing })
    }

    /// The `length` tokens that followed it; none where nothing matches.
    fn chain<'py>(&self, py: Python<'py>, length: usize) -> Bound<'py, PyArray1<u32>> {
        let found = self.inner.find();
        found.map(|found| self.inner.chain(found, length)).unwrap_or_default().into_pyarray(py)
    }

    fn __len__(&self) -> usize {
        self.inner.tokens().len()
    }
}
