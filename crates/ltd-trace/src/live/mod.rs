//! The commands that run models.

pub(crate) mod latency;
pub(crate) mod record;

use clap::builder::RangedU64ValueParser;

/// A count between two others.
fn within<T: TryFrom<u64> + Clone + Send + Sync>(least: u64, most: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(least..=most)
}
