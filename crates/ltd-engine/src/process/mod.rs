//! What concerns all of a program's process: how it opens its engine, how threads wait, where
//! memory is.

pub(crate) mod huge_pages;
mod open;
mod waiting;

pub use waiting::bound_spinning;
