//! Decisions about trees that a program keeps itself.

use ltd_cycle::{Controller as _, Learned, goes_on, is_log_prob};
use ltd_policy::{CycleSummary, PolicyPackage};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::Shared;
use crate::arrays::Numbers;

/// The decisions of a package about trees.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct Controller {
    learned: Shared<Learned>,
    beam_width: usize,
    max_depth: usize,
}

/// The scores of a tree, read where they are.
pub(crate) struct Tree<'py> {
    scores: Numbers<'py, f32>,
    beam_width: usize,
    draft_depth: usize,
}

impl<'py> Tree<'py> {
    /// Checks the scores of a tree of this depth.
    pub(crate) fn of(
        scores: &Bound<'py, PyAny>,
        draft_depth: usize,
        beam_width: usize,
        max_depth: usize,
    ) -> PyResult<Self> {
        if draft_depth > max_depth {
            let expected = format!("at most {max_depth}, as deep as the policy drafts");
            return Err(PyValueError::new_err(format!(
                "draft_depth: expected {expected}, found {draft_depth}"
            )));
        }
        let scores = Numbers::of("scores", scores)?;
        scores.expect_shape("scores", &[beam_width + draft_depth * beam_width * beam_width])?;
        if let Some(at) = scores.as_slice()?.iter().position(|&score| !is_log_prob(score)) {
            let found = scores.as_slice()?[at];
            let expected = "a logarithm of a probability";
            return Err(PyValueError::new_err(format!("scores[{at}]: expected {expected}, found {found}")));
        }
        Ok(Self { scores, beam_width, draft_depth })
    }

    /// What a policy may see of it.
    pub(crate) fn summary(
        &self,
        context_length: usize,
        frontier: Option<usize>,
    ) -> PyResult<CycleSummary<'_>> {
        let Self { beam_width, draft_depth, .. } = *self;
        let frontier = frontier.unwrap_or(beam_width);
        if frontier > beam_width {
            let expected = format!("at most {beam_width}, the beam width");
            return Err(PyValueError::new_err(format!("frontier: expected {expected}, found {frontier}")));
        }
        Ok(CycleSummary {
            scores: self.scores.as_slice()?,
            beam_width,
            frontier,
            draft_depth,
            context_length,
        })
    }
}

impl Controller {
    pub(crate) fn new(package: &PolicyPackage, learned: Learned) -> Self {
        Self {
            learned: Shared::new(learned),
            beam_width: package.manifest.beam_width,
            max_depth: package.deepest(),
        }
    }
}

#[pymethods]
impl Controller {
    /// The most candidates that it lets the target verify.
    #[getter]
    fn size_limit(&self) -> usize {
        self.learned.lock().size_limit()
    }

    /// Forgets the cycle before.
    fn begin_cycle(&self) {
        self.learned.lock().begin_cycle();
    }

    /// Whether to draft one more level.
    #[pyo3(signature = (scores, draft_depth, context_length, frontier=None))]
    fn continue_drafting(
        &self,
        scores: &Bound<PyAny>,
        draft_depth: usize,
        context_length: usize,
        frontier: Option<usize>,
    ) -> PyResult<bool> {
        let tree = Tree::of(scores, draft_depth, self.beam_width, self.max_depth)?;
        let summary = tree.summary(context_length, frontier)?;
        Ok(goes_on(&mut *self.learned.lock(), &summary, self.max_depth))
    }

    /// Candidates to verify.
    #[pyo3(signature = (scores, draft_depth, context_length, frontier=None))]
    fn verification_size(
        &self,
        scores: &Bound<PyAny>,
        draft_depth: usize,
        context_length: usize,
        frontier: Option<usize>,
    ) -> PyResult<usize> {
        let tree = Tree::of(scores, draft_depth, self.beam_width, self.max_depth)?;
        Ok(self.learned.lock().verification_size(&tree.summary(context_length, frontier)?))
    }
}
