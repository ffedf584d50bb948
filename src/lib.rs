//! Learning To Draft: a thin facade over the crates of this workspace.

pub use ltd_contenders as contenders;
pub use ltd_cycle as cycle;
pub use ltd_engine as engine;
pub use ltd_env as env;
pub use ltd_export as export;
pub use ltd_policy as policy;
pub use ltd_run as run;
pub use ltd_train as train;
