//! A loaded package.

use std::path::PathBuf;

use ltd_cycle::Learned;
use ltd_policy::{
    Choice, Conditions, LatencyModel, ObservationLayout, PolicyPackage, SamplingParams, Sight, SourceChoice,
};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use crate::PackageError;
use crate::arrays::tokens;
use crate::controller::{Controller, Tree};
use crate::sequence::Sequence;

/// A package, checked when it was loaded.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct Policy {
    package: PolicyPackage,
    /// What its sequences decide by: they share its networks.
    learned: Learned,
    folder: PathBuf,
}

/// What cycles cost by the table of a factored policy, in milliseconds.
#[pyclass(frozen, module = "ltd_policy")]
pub(crate) struct Latency {
    model: LatencyModel,
}

#[pymethods]
impl Policy {
    /// Loads a package. What is known of the conditions here is compared with those that it was
    /// made for; differences are a `UserWarning`.
    #[staticmethod]
    #[pyo3(signature = (folder, *, device=None, dtype=None, threads=None, temperature=None, top_p=1.0, top_k=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn load(
        py: Python,
        folder: PathBuf,
        device: Option<String>,
        dtype: Option<String>,
        threads: Option<usize>,
        temperature: Option<f64>,
        top_p: f64,
        top_k: Option<usize>,
    ) -> PyResult<Self> {
        let package =
            PolicyPackage::load(&folder).map_err(|error| PackageError::new_err(error.to_string()))?;
        if temperature.is_none() && (top_p != 1.0 || top_k.is_some()) {
            return Err(PyValueError::new_err("temperature: expected one with top_p or top_k, found None"));
        }
        let sampling = temperature.map(|temperature| SamplingParams { temperature, top_p, top_k });
        let here = Conditions { sampling, device, dtype, threads };
        if let Some((key, problem)) = here.problem() {
            return Err(PyValueError::new_err(format!("{key} {problem}")));
        }
        if let Some(warning) = package.warning(&here) {
            let text = format!("{}: {warning}", folder.display()).replace('\0', " ");
            let text = std::ffi::CString::new(text).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
        }
        let learned = Learned::of_package(&package);
        Ok(Self { package, learned, folder })
    }

    /// The manifest, as JSON.
    #[getter]
    fn manifest_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.package.manifest)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// "fallback", "pair" or "factored".
    #[getter]
    fn kind(&self) -> &'static str {
        match (&self.package.manifest.fallback, &self.package.policy) {
            (Some(_), _) => "fallback",
            (None, ltd_policy::Policy::Pair { .. }) => "pair",
            (None, ltd_policy::Policy::Factored(_)) => "factored",
        }
    }

    #[getter]
    fn beam_width(&self) -> usize {
        self.package.manifest.beam_width
    }

    /// The deepest draft that it may ask for.
    #[getter]
    fn max_depth(&self) -> usize {
        self.package.deepest()
    }

    /// Whether it chooses what to draft from.
    #[getter]
    fn chooses_source(&self) -> bool {
        ltd_cycle::Controller::chooses_source(&self.learned)
    }

    /// The table of a factored policy.
    #[getter]
    fn latency(&self) -> Option<Latency> {
        match &self.package.policy {
            ltd_policy::Policy::Factored(factored) => Some(Latency { model: factored.latency.model() }),
            ltd_policy::Policy::Pair { .. } => None,
        }
    }

    /// Fails unless the package is of models with these SHA-256 sums.
    #[pyo3(signature = (*, target=None, draft=None))]
    fn check_models(&self, target: Option<&str>, draft: Option<&str>) -> PyResult<()> {
        let checked = self.package.check_models(&self.folder, target, draft);
        checked.map_err(|error| PackageError::new_err(error.to_string()))
    }

    /// The decisions of one sequence.
    fn sequence(&self, prompt: &Bound<PyAny>, root: u32) -> PyResult<Sequence> {
        let prompt = tokens("prompt", prompt)?;
        let shape = [self.beam_width(), self.max_depth()];
        Ok(Sequence::new(ltd_cycle::Sequence::steered_by(self.learned.clone(), shape, &prompt, root)))
    }

    /// The decisions alone, for a program that keeps trees of its own.
    fn controller(&self) -> Controller {
        Controller::new(&self.package, self.learned.clone())
    }

    /// What a policy sees of a tree.
    #[pyo3(signature = (decision, scores, draft_depth, context_length, frontier=None))]
    fn observe<'py>(
        &self,
        py: Python<'py>,
        decision: &str,
        scores: &Bound<'py, PyAny>,
        draft_depth: usize,
        context_length: usize,
        frontier: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let layout = self.layout(decision, Sight::Tree)?;
        let tree = Tree::of(scores, draft_depth, layout.beam_width, layout.depth_cap)?;
        let mut observation = vec![0.0; layout.len()];
        layout.write_into(&tree.summary(context_length, frontier)?, &mut observation);
        Ok(observation.into_pyarray(py))
    }

    /// What a policy's source decision sees of a sequence.
    fn observe_source<'py>(
        &self,
        py: Python<'py>,
        sequence: &Sequence,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let layout = self.layout("source", Sight::Sequence)?;
        let summary = sequence.source_summary();
        let summary = summary.ok_or_else(|| PyValueError::new_err("the sequence does not choose sources"))?;
        let mut observation = vec![0.0; layout.len()];
        layout.write_sequence_into(&summary, &mut observation);
        Ok(observation.into_pyarray(py))
    }

    fn __repr__(&self) -> String {
        let manifest = &self.package.manifest;
        let (target, draft) = (&manifest.target, &manifest.draft);
        format!("<ltd_policy.Policy {}: {} of {target} with {draft}>", self.folder.display(), self.kind())
    }
}

impl Policy {
    /// The layout of a decision that is made from a tree, or from a sequence.
    fn layout(&self, decision: &str, sight: Sight) -> PyResult<&ObservationLayout> {
        let mut known = self.layouts();
        known.retain(|(_, layout)| layout.sight() == Some(sight));
        let found = known.iter().find(|(name, _)| *name == decision);
        found.map(|(_, layout)| *layout).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let expected =
                if names.is_empty() { "none: no such decision is learned" } else { &names.join(", ") };
            PyValueError::new_err(format!("decision: expected {expected}, found {decision:?}"))
        })
    }

    /// What each network of the package sees.
    fn layouts(&self) -> Vec<(&'static str, &ObservationLayout)> {
        fn learned(choice: &Choice) -> Option<&ObservationLayout> {
            match choice {
                Choice::Learned(policy) => Some(policy.layout()),
                Choice::Constant(_) => None,
            }
        }
        match &self.package.policy {
            ltd_policy::Policy::Pair { depth, size, source } => {
                let source = match source {
                    SourceChoice::Learned(policy) => Some(policy.layout()),
                    SourceChoice::Rule(_) | SourceChoice::Trees => None,
                };
                let all = [("depth", learned(depth)), ("size", learned(size)), ("source", source)];
                all.into_iter().filter_map(|(name, layout)| Some((name, layout?))).collect()
            }
            ltd_policy::Policy::Factored(factored) => {
                let source = factored.source.as_ref().map(|source| ("source", source.predictor.layout()));
                [("factored", factored.predictor.layout())].into_iter().chain(source).collect()
            }
        }
    }
}

#[pymethods]
impl Latency {
    /// A root expansion that reads `rows` tokens.
    fn root_ms(&self, rows: usize, context: usize) -> f64 {
        self.model.root_ms(rows, context)
    }

    /// The draft forward of level `depth` over `rows` nodes.
    fn level_ms(&self, depth: usize, rows: usize, context: usize) -> f64 {
        self.model.level_ms(depth, rows, context)
    }

    /// The verification of `size` candidates.
    fn verify_ms(&self, size: usize, context: usize) -> f64 {
        self.model.verify_ms(size, context)
    }
}
