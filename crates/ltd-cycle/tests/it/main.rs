//! Properties of draft trees.

mod tree;
