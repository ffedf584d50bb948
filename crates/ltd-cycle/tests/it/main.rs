//! Properties of draft trees, and of where generations end.

mod merged;
mod stop_rule;
mod tree;
