//! Integration tests of the trainer.

mod environments;
mod exact;
mod gradients;
mod learning;
mod models;
mod ranks;
mod replay;
mod run;
mod sb3;
/// The configuration that the tests of `ltd-run` read.
#[path = "../../../ltd-run/tests/it/tiny.rs"]
mod tiny;
