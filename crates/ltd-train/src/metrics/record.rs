//! One point of the curves.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// Values at one point of a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Stage, or empty for curves of the whole run.
    pub(crate) stage: String,
    /// The x axis: steps of the stage, or of the run.
    pub(crate) timesteps: usize,
    /// When it was written, seconds since 1970.
    pub(crate) wall_time: f64,
    /// By tag.
    #[serde(deserialize_with = "numbers")]
    pub(crate) values: BTreeMap<String, f64>,
    /// Cycles by value, by tag.
    pub(crate) histograms: BTreeMap<String, BTreeMap<usize, usize>>,
}

/// Numbers by tag, of which JSON writes those that are none as null.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(tag, value)| (tag, value.unwrap_or(f64::NAN))).collect())
}
