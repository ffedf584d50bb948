//! End-to-end tests of the command lines.

mod bad_input;
mod command;
mod console;
mod contenders;
mod decode;
mod factored;
mod folders;
mod instructions;
mod interrupt;
mod machine;
mod nothing;
mod path;
mod resume;
mod retarget;
