//! Each kernel with each instruction set of this processor, number type and kind of threads, beside
//! the formula in f64.

mod attention;
mod mlp;
mod norm;
mod product;
mod reference;
mod top;
