//! Integration tests of what the programs share.

mod config;
mod fuzz;
mod reference;
mod tiny;
