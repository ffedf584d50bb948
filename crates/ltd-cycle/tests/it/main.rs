//! Properties of draft trees, and of where generations end.

mod stop_rule;
mod tree;
