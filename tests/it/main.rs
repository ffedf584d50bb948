//! End-to-end tests of the command lines.

mod bad_input;
mod command;
mod decode;
mod factored;
mod path;
mod resume;
mod retarget;
