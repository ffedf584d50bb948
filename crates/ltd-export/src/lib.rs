//! Freezes the policies of a run into a verified policy package, imports those of the published
//! code, and writes what servers accept in place of one.
//!
//! ```no_run
//! let forms = ltd_export::Forms::Suitable;
//! let exported = ltd_export::export("runs/mine".as_ref(), None, &forms, "policies".as_ref())?;
//! println!("{} files, checked on {} probes", exported.manifest.files.len(), exported.probes);
//! # Ok::<(), ltd_export::Error>(())
//! ```

mod cli;
mod error;
mod export;
mod forms;
mod import;
pub mod servers;

pub use cli::Cli;
pub use error::{Error, Result};
pub use export::{Export, Forms, export, write};
pub use forms::Form;
pub use import::{Imported, import};
