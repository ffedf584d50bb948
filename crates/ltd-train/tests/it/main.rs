//! Integration tests of the trainer.

mod config;
mod exact;
mod fuzz;
mod learning;
mod models;
mod replay;
mod run;
mod sb3;
mod tiny;
