//! The decisions of one sequence.

use ltd_cycle::VerificationTree;
use ltd_policy::DraftSource;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::SequenceError;
use crate::arrays::{Numbers, tokens};

/// Steers the cycles of one sequence.
#[pyclass(module = "ltd_policy")]
pub(crate) struct Sequence {
    pub(crate) inner: ltd_cycle::Sequence,
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
        Self { inner }
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
        self.inner.root()
    }

    /// Tokens before the root.
    #[getter]
    fn context_length(&self) -> usize {
        self.inner.context_length()
    }

    /// The most candidates that are verified of a tree.
    #[getter]
    fn size_limit(&self) -> usize {
        self.inner.size_limit()
    }

    /// Tokens that the next level expands, the root's before there is one.
    #[getter]
    fn frontier_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let tokens: Vec<u32> = match self.inner.growing() {
            Some(growing) => growing.frontier_tokens().collect(),
            None => vec![self.inner.root()],
        };
        tokens.into_pyarray(py)
    }

    /// For each of them, the row of the level before that proposed it.
    #[getter]
    fn frontier_parents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let parents = self.inner.growing().map(|growing| growing.parents().to_vec()).unwrap_or_default();
        parents.into_iter().map(|parent| parent as i64).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Begins a cycle: what it drafts from.
    fn begin(&mut self) -> Source {
        Source { source: self.inner.begin() }
    }

    /// Begins a cycle that copies so many tokens, whatever the policy thinks of it.
    fn begin_copy(&mut self, chain: usize) {
        self.inner.begin_copy(chain);
    }

    /// Lengths of the chains that may be copied now, and how many of their tokens a factored policy
    /// expects to be accepted.
    fn expected_of_chains<'py>(
        &mut self,
        py: Python<'py>,
    ) -> (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>) {
        let (lengths, expected): (Vec<i64>, Vec<f32>) = self
            .inner
            .expected_of_chains()
            .into_iter()
            .map(|(chain, expected)| (chain as i64, expected))
            .unzip();
        (lengths.into_pyarray(py), expected.into_pyarray(py))
    }

    /// Adds a level, `[frontier, W]` numbers.
    fn push_level(&mut self, log_probs: &Bound<PyAny>, tokens: &Bound<PyAny>) -> PyResult<()> {
        let log_probs = Numbers::<f32>::of("log_probs", log_probs)?;
        let tokens = self::tokens("tokens", &flat(tokens)?)?;
        let rows = self.inner.growing().map_or(1, |growing| growing.parents().len());
        if log_probs.shape() != [rows * self.inner.beam_width()] {
            log_probs.expect_shape("log_probs", &[rows, self.inner.beam_width()])?;
        }
        self.inner.push_level(log_probs.as_slice()?, &tokens).map_err(|problem| error(&problem))
    }

    /// Whether to add one more level.
    fn continue_drafting(&mut self) -> PyResult<bool> {
        self.inner.continue_drafting().map_err(|problem| error(&problem))
    }

    /// Candidates to verify.
    fn verification_size(&mut self) -> PyResult<usize> {
        self.inner.verification_size().map_err(|problem| error(&problem))
    }

    /// The tree of tokens that the target verifies.
    #[pyo3(signature = (at_most=None))]
    fn verification(&mut self, at_most: Option<usize>) -> PyResult<Verification> {
        let tree =
            self.inner.verification(at_most.unwrap_or(usize::MAX)).map_err(|problem| error(&problem))?;
        Ok(Verification { tree: tree.clone() })
    }

    /// Ends the cycle.
    fn commit(&mut self, accepted: &Bound<PyAny>, next: u32) -> PyResult<()> {
        let accepted = tokens("accepted", accepted)?;
        self.inner.commit(&accepted, next);
        Ok(())
    }
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
