//! `NumPy` arrays in and out: what they must be, and messages that say what they are.

use numpy::{Element, PyArrayDescrMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Numbers of an array, read where they are.
pub(crate) struct Numbers<'py, T: Element> {
    array: PyReadonlyArrayDyn<'py, T>,
}

impl<'py, T: Element> Numbers<'py, T> {
    /// The argument `name`, which must be an array of this type, one row after another.
    pub(crate) fn of(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        // A decision takes a few microseconds: what is wrong is looked at where something is.
        match object.extract::<PyReadonlyArrayDyn<T>>() {
            Ok(array) if array.is_c_contiguous() => Ok(Self { array }),
            _ => Err(Self::problem(name, object)?),
        }
    }

    /// What is wrong with an argument.
    fn problem(name: &str, object: &Bound<'py, PyAny>) -> PyResult<PyErr> {
        let wanted = dtype::<T>(object.py());
        let expected = format!("{name}: expected a C-contiguous array of {wanted}");
        let Ok(untyped) = object.cast::<PyUntypedArray>() else {
            let found = object.get_type().name()?;
            return Ok(PyTypeError::new_err(format!("{expected}, found {found}")));
        };
        let found = untyped.dtype();
        if !found.is_equiv_to(&wanted) {
            return Ok(PyTypeError::new_err(format!("{expected}, found one of {found}")));
        }
        let how = if untyped.is_c_contiguous() { "misaligned or in use elsewhere" } else { "not contiguous" };
        Ok(PyValueError::new_err(format!("{expected}, found one that is {how}")))
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// Its numbers.
    pub(crate) fn as_slice(&self) -> PyResult<&[T]> {
        Ok(self.array.as_slice()?)
    }

    /// Fails unless it has this shape.
    pub(crate) fn expect_shape(&self, name: &str, expected: &[usize]) -> PyResult<()> {
        if self.shape() == expected {
            return Ok(());
        }
        let (expected, found) = (shape(expected), shape(self.shape()));
        Err(PyValueError::new_err(format!("{name}: expected shape {expected}, found {found}")))
    }
}

/// A shape as `NumPy` writes it.
pub(crate) fn shape(lengths: &[usize]) -> String {
    let text: Vec<String> = lengths.iter().map(usize::to_string).collect();
    format!("({}{})", text.join(", "), if lengths.len() == 1 { "," } else { "" })
}

/// Tokens, from an array of whole numbers or any sequence of them.
pub(crate) fn tokens(name: &str, object: &Bound<PyAny>) -> PyResult<Vec<u32>> {
    let as_token = |found: i64| {
        u32::try_from(found).map_err(|_| {
            PyValueError::new_err(format!("{name}: expected tokens, from 0 to {}, found {found}", u32::MAX))
        })
    };
    let Ok(untyped) = object.cast::<PyUntypedArray>() else {
        let found: Vec<i64> = object.extract().map_err(|_| {
            let found = object.get_type().name().map(|name| name.to_string()).unwrap_or_default();
            PyTypeError::new_err(format!("{name}: expected whole numbers, found {found}"))
        })?;
        return found.into_iter().map(as_token).collect();
    };
    let found = untyped.dtype();
    let py = object.py();
    if found.is_equiv_to(&dtype::<u32>(py)) {
        return Ok(Numbers::<u32>::of(name, object)?.as_slice()?.to_vec());
    }
    if found.is_equiv_to(&dtype::<i32>(py)) {
        let numbers = Numbers::<i32>::of(name, object)?;
        return numbers.as_slice()?.iter().map(|&token| as_token(token.into())).collect();
    }
    if found.is_equiv_to(&dtype::<i64>(py)) {
        return Numbers::<i64>::of(name, object)?.as_slice()?.iter().map(|&token| as_token(token)).collect();
    }
    let expected = "an array of uint32, int32 or int64";
    Err(PyTypeError::new_err(format!("{name}: expected {expected}, found one of {found}")))
}
