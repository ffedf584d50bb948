//! Policy files and packages: what is written is read back, and nothing broken is accepted.

mod factored;
mod fuzz;
mod package;
mod policy_file;
mod source_package;
mod synthetic;
