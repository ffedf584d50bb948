//! The decisions of one sequence.

use ltd_cycle::VerificationTree;
use ltd_policy::{DraftSource, SourceSummary};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays::{Numbers, shape, tokens};
use crate::{SequenceError, Shared};

/// Steers the cycles of one sequence.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct Sequence {
    inner: Shared<ltd_cycle::Sequence>,
}

/// What a cycle drafts from.
#[pyclass(frozen, eq, module = "ltd_policy")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Source {
    source: DraftSource,
}

/// The tree of tokens that the target verifies.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct Verification {
    tree: VerificationTree,
}

impl Sequence {
    pub(crate) fn new(inner: ltd_cycle::Sequence) -> Self {
        Self { inner: Shared::new(inner) }
    }

    pub(crate) fn source_summary(&self) -> Option<SourceSummary> {
        self.inner.lock().source_summary()
    }
}

fn error(error: &ltd_cycle::SequenceError) -> PyErr {
    match error {
        ltd_cycle::SequenceError::Order { .. } | ltd_cycle::SequenceError::Depth { .. } => {
            SequenceError::new_err(error.to_string())
        }
        _ => PyValueError::new_err(error.to_string()),
    }
}

#[pymethods]
impl Sequence {
    /// The token that the next cycle begins with.
    #[getter]
    fn root(&self) -> u32 {
        self.inner.lock().root()
    }

    /// Tokens before the root.
    #[getter]
    fn context_length(&self) -> usize {
        self.inner.lock().context_length()
    }

    /// The most candidates that are verified of a tree.
    #[getter]
    fn size_limit(&self) -> usize {
        self.inner.lock().size_limit()
    }

    /// Tokens that the next level expands, the root's before there is one.
    #[getter]
    fn frontier_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        self.frontier().0.into_pyarray(py)
    }

    /// For each of them, the row of the level before that proposed it.
    #[getter]
    fn frontier_parents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.frontier().1.into_pyarray(py)
    }

    /// Begins a cycle: what it drafts from.
    fn begin(&self) -> Source {
        Source { source: self.inner.lock().begin() }
    }

    /// Begins a cycle that copies so many tokens, whatever the policy thinks of it.
    fn begin_copy(&self, chain: usize) -> PyResult<()> {
        self.inner.lock().begin_copy(chain).map_err(|problem| error(&problem))
    }

    /// Lengths of the chains that may be copied now, and how many of their tokens a factored policy
    /// expects to be accepted.
    fn expected_of_chains<'py>(
        &self,
        py: Python<'py>,
    ) -> (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>) {
        let chains = self.inner.lock().expected_of_chains();
        let (lengths, expected): (Vec<i64>, Vec<f32>) =
            chains.into_iter().map(|(chain, expected)| (chain as i64, expected)).unzip();
        (lengths.into_pyarray(py), expected.into_pyarray(py))
    }

    /// Adds a level, `[frontier, W]` numbers.
    fn push_level(&self, log_probs: &Bound<PyAny>, tokens: &Bound<PyAny>) -> PyResult<()> {
        let log_probs = Numbers::<f32>::of("log_probs", log_probs)?;
        let expected = self.level_shape();
        if log_probs.shape() != [expected[0] * expected[1]] {
            log_probs.expect_shape("log_probs", &expected)?;
        }
        expect_shape_of_tokens(tokens, log_probs.shape())?;
        let tokens = self::tokens("tokens", &flat(tokens)?)?;
        let numbers = log_probs.as_slice()?;
        self.inner.lock().push_level(numbers, &tokens).map_err(|problem| error(&problem))
    }

    /// Whether to add one more level.
    fn continue_drafting(&self) -> PyResult<bool> {
        self.inner.lock().continue_drafting().map_err(|problem| error(&problem))
    }

    /// Candidates to verify.
    fn verification_size(&self) -> PyResult<usize> {
        self.inner.lock().verification_size().map_err(|problem| error(&problem))
    }

    /// The tree of tokens that the target verifies.
    #[pyo3(signature = (at_most=None))]
    fn verification(&self, at_most: Option<usize>) -> PyResult<Verification> {
        let mut sequence = self.inner.lock();
        let tree = sequence.verification(at_most.unwrap_or(usize::MAX)).map_err(|problem| error(&problem))?;
        Ok(Verification { tree: tree.clone() })
    }

    /// Ends the cycle.
    fn commit(&self, accepted: &Bound<PyAny>, next: u32) -> PyResult<()> {
        let accepted = tokens("accepted", accepted)?;
        self.inner.lock().commit(&accepted, next);
        Ok(())
    }
}

impl Sequence {
    /// Rows of the next level, and continuations of each.
    fn level_shape(&self) -> [usize; 2] {
        let sequence = self.inner.lock();
        [sequence.growing().map_or(1, |growing| growing.parents().len()), sequence.beam_width()]
    }

    /// Tokens that the next level expands, and the rows that proposed them.
    fn frontier(&self) -> (Vec<u32>, Vec<i64>) {
        let sequence = self.inner.lock();
        match sequence.growing() {
            Some(growing) => {
                let parents = growing.parents().iter().map(|&parent| parent as i64);
                (growing.frontier_tokens().collect(), parents.collect())
            }
            None => (vec![sequence.root()], Vec::new()),
        }
    }
}

/// Fails if tokens are an array of another shape than their log-probs.
fn expect_shape_of_tokens(tokens: &Bound<PyAny>, expected: &[usize]) -> PyResult<()> {
    let Ok(array) = tokens.cast::<PyUntypedArray>() else { return Ok(()) };
    // What is flat on one side has no shape to compare.
    if array.shape() == expected || array.ndim() == 1 || expected.len() == 1 {
        return Ok(());
    }
    let (expected, found) = (shape(expected), shape(array.shape()));
    let problem = format!("tokens: expected the shape of log_probs, {expected}, found {found}");
    Err(PyValueError::new_err(problem))
}

/// An array in one dimension; what is none is left to others to refuse.
fn flat<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if object.hasattr("ravel")? { object.call_method0("ravel") } else { Ok(object.clone()) }
}

#[pymethods]
impl Source {
    /// "tree", "copy" or "merged".
    #[getter]
    fn kind(&self) -> &'static str {
        match self.source {
            DraftSource::Tree => "tree",
            DraftSource::Copy { .. } => "copy",
            DraftSource::Merged { .. } => "merged",
        }
    }

    /// Tokens to copy at most.
    #[getter]
    fn chain(&self) -> usize {
        match self.source {
            DraftSource::Tree => 0,
            DraftSource::Copy { chain } | DraftSource::Merged { chain } => chain,
        }
    }

    /// Whether the draft model drafts.
    #[getter]
    fn drafts(&self) -> bool {
        !matches!(self.source, DraftSource::Copy { .. })
    }

    fn __repr__(&self) -> String {
        format!("<ltd_policy.Source {} {}>", self.kind(), self.chain())
    }
}

#[pymethods]
impl Verification {
    /// Tokens of all rows, root first.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        self.tree.tokens.clone().into_pyarray(py)
    }

    /// Row of each row's parent; -1 for the root.
    #[getter]
    fn parents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let parents = self.tree.parent_rows.iter().map(|&row| row as i64);
        [-1].into_iter().chain(parents).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Depth of each row, root 0.
    #[getter]
    fn depths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.tree.depths.iter().map(|&depth| depth as i64).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Rows of the chain that was copied.
    #[getter]
    fn chain_rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.tree.chain_rows.iter().map(|&row| row as i64).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Which rows each row sees: its ancestors and itself, `[rows, rows]`.
    fn mask<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<bool>>> {
        let rows = self.tree.rows();
        self.tree.mask().into_pyarray(py).reshape([rows, rows])
    }

    fn __len__(&self) -> usize {
        self.tree.rows()
    }
}
