//! Files as all programs write and read them: whole or not at all, by one process at a time, and
//! looked at before the work that makes them.

mod atomic_file;
mod folder_lock;
mod json_file;
mod output;
mod sha256;
mod text_file;

pub use atomic_file::{is_full, is_unfinished, remove_unfinished, write_atomically};
pub use folder_lock::FolderLock;
pub use json_file::{json_text, write_json};
pub use output::{check_new_folder, check_output_file, check_output_folder};
pub use sha256::sha256_hex;
pub use text_file::read_text;
