//! Values of arguments that several commands take.

use clap::builder::RangedU64ValueParser;
use ltd_run::config::limits;

/// A number of steps or prompts.
pub(crate) fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=*limits::COUNTS.end() as u64)
}
