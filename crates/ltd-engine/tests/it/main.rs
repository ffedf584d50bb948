//! Integration tests of the engine.

mod bad_input;
mod fixtures;
mod heads;
mod lossless;
mod pairs;
mod parity;
mod sampling;
mod sessions;
mod stop_tokens;
mod tree;
