//! Integration tests of the engine.

mod fixtures;
mod lossless;
mod parity;
mod tree;
