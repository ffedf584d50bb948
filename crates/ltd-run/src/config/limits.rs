//! How large the values of a configuration can be. Beyond, they are slips of the keyboard: the
//! memory or the time that they ask for is nowhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use ltd_engine::MAX_DEPTH;
use ltd_policy::{MAX_LAYERS, MAX_SIZE};
use schemars::transform::Transform;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::bounds::within;

/// Steps of a stage, and tokens of an answer.
pub const COUNTS: RangeInclusive<usize> = 1..=u32::MAX as usize;
/// Steps of a rollout, and of a gradient step. The least are two: one cannot be standardised.
pub const ROLLOUTS: RangeInclusive<usize> = 2..=1 << 20;
/// Environments of a rank.
pub const ENVIRONMENTS: RangeInclusive<usize> = 1..=1 << 12;
/// Samples of a gradient step.
pub const BATCHES: RangeInclusive<usize> = 1..=1 << 20;
/// Passes over the same samples.
pub const EPOCHS: RangeInclusive<usize> = 1..=10_000;
/// Hidden layers of a network.
pub const HIDDEN_LAYERS: usize = MAX_LAYERS - 1;
/// Neurons of a hidden layer.
pub const WIDTHS: RangeInclusive<usize> = 1..=1 << 14;
/// Step sizes of Adam.
pub const LEARNING_RATES: RangeInclusive<f64> = 1e-12..=1.0;
/// Factors and limits without a natural bound, as a weight of a loss.
pub const FACTORS: RangeInclusive<f64> = 0.0..=1e6;
/// The same where nothing can be divided by 0.
pub const POSITIVE_FACTORS: RangeInclusive<f64> = 1e-12..=1e6;
/// Stages of all rounds together.
pub const ROUND_STAGES: usize = 1000;
/// Rounds.
pub const ROUNDS: RangeInclusive<usize> = 0..=ROUND_STAGES;
/// Draft depths.
pub const DEPTHS: RangeInclusive<usize> = 0..=MAX_DEPTH;
/// Verification sizes.
pub const SIZES: RangeInclusive<usize> = 1..=MAX_SIZE;
/// Discounts and the like.
pub const SHARES: RangeInclusive<f64> = 0.0..=1.0;
/// Seeds that each prompt is recorded with.
pub const SEEDS: RangeInclusive<usize> = 1..=1000;
/// Shares of a stage in which the step size rises.
pub const WARM_UPS: RangeInclusive<f64> = 0.0..=0.5;
/// Snapshots of a stage.
pub const CANDIDATES: RangeInclusive<usize> = 1..=1000;
/// Constants of a grid.
pub const GRID: usize = 1000;

/// Widths of hidden layers.
pub(super) fn hidden_layers(schema: &mut Schema) {
    schema.insert("maxItems".to_owned(), HIDDEN_LAYERS.into());
    if let Some(Ok(width)) = schema.get_mut("items").map(<&mut Schema>::try_from) {
        within(WIDTHS).transform(width);
    }
}

/// A time limit.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(transform = within(Minutes::POSSIBLE))]
pub struct Minutes(f64);

impl Minutes {
    const POSSIBLE: RangeInclusive<f64> = 1e-6..=1e6;

    /// The limit as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0 * 60.0)
    }
}

impl TryFrom<f64> for Minutes {
    type Error = String;

    fn try_from(minutes: f64) -> Result<Self, String> {
        let possible = Self::POSSIBLE.contains(&minutes);
        possible
            .then_some(Self(minutes))
            .ok_or_else(|| format!("is {minutes:?} minutes, must be within {:?}", Self::POSSIBLE))
    }
}

impl From<Minutes> for f64 {
    fn from(Minutes(minutes): Minutes) -> Self {
        minutes
    }
}

impl std::str::FromStr for Minutes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let minutes: f64 = text.parse().map_err(|_| "expected a number of minutes".to_owned())?;
        minutes.try_into()
    }
}
