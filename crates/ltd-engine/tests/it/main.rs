//! Integration tests of the engine.

mod bad_input;
mod fixtures;
mod foreign_keys;
mod fuzz;
mod heads;
mod lossless;
mod not_a_number;
mod pairs;
mod parity;
mod sampling;
mod sequence;
mod sessions;
mod stop_tokens;
mod vocabulary_map;
