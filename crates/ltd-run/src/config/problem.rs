//! What is wrong with a configuration, all at once.

use std::ops::RangeInclusive;

use super::limits;

/// A list of problems, each with the path of the value at fault.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems(Vec<(String, String)>);

impl Problems {
    /// Notes a problem.
    pub fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push((path.into(), problem.into()));
    }

    /// Notes a count outside its range.
    pub fn check_count(&mut self, path: impl Into<String>, count: usize, range: RangeInclusive<usize>) {
        if !range.contains(&count) {
            self.add(path, format!("is {count}, must be within {range:?}"));
        }
    }

    /// Notes a number outside its range.
    pub fn check_number(&mut self, path: impl Into<String>, number: f64, range: RangeInclusive<f64>) {
        if !range.contains(&number) {
            self.add(path, format!("is {number:?}, must be within {range:?}"));
        }
    }

    /// Notes widths of hidden layers that no network can have.
    pub fn check_net_arch(&mut self, path: impl Into<String>, widths: &[usize]) {
        let problem = if widths.len() > limits::HIDDEN_LAYERS {
            format!("has {} layers, must have at most {}", widths.len(), limits::HIDDEN_LAYERS)
        } else if let Some(width) = widths.iter().find(|width| !limits::WIDTHS.contains(width)) {
            format!("has a width of {width}, must be within {:?}", limits::WIDTHS)
        } else {
            return;
        };
        self.add(path, problem);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the value at `path`, or one that it is part of, is at fault already.
    fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|(known, _)| {
            let rest = path.strip_prefix(known.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Adds the problems of `others` that do not follow from those known.
    pub(super) fn add_independent(&mut self, others: Self) {
        let new: Vec<_> = others.0.into_iter().filter(|(path, _)| !self.covers(path)).collect();
        self.0.extend(new);
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        for (index, (path, problem)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}  {path}: {problem}")?;
        }
        Ok(())
    }
}
