//! Integration tests of the trainer.

mod learning;
mod sb3;
