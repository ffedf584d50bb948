//! What replay needs: draft trees recorded once, and the costs of this machine.

mod latency;
mod recorded;
mod trace;

use std::path::Path;

use crate::{Error, Result};

pub use latency::{describe_latency, measure_latency};
pub(crate) use recorded::Recorded;
pub use trace::{Recording, record};

/// Fails unless `[target, draft, beam width]` of what `path` holds are those of `owner`.
pub(crate) fn check_models(path: &Path, found: [&str; 3], owner: &str, wanted: [&str; 3]) -> Result<()> {
    for (what, (found, wanted)) in
        ["target", "draft", "beam width"].into_iter().zip(found.into_iter().zip(wanted))
    {
        if found != wanted {
            let path = path.display();
            return Err(Error::Recorded(format!(
                "{path}: its {what} is {found}, that of {owner} is {wanted}"
            )));
        }
    }
    Ok(())
}
