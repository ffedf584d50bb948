//! Where results go: looked at before the work that makes them.

use std::path::{Path, is_separator};

use super::atomic_file::{folder_of, is_full};
use crate::{Error, Result};

/// Fails unless a file can be written at `path`, which `flag` of a command line named.
pub fn check_output_file(flag: &'static str, path: &Path) -> Result<()> {
    if path.is_dir() || path.to_string_lossy().ends_with(is_separator) || path.file_name().is_none() {
        return Err(refused(flag, path, "is a folder, expected a file"));
    }
    if path.exists() && !path.is_file() {
        return Err(refused(flag, path, "exists and is not a regular file"));
    }
    check_writable(flag, path, folder_of(path))
}

/// Fails unless files can be written into the folder `path`, or it can be made.
pub fn check_output_folder(flag: &'static str, path: &Path) -> Result<()> {
    let nearest = path.ancestors().find(|folder| folder.exists());
    check_writable(flag, path, nearest.unwrap_or(Path::new(".")))
}

/// Fails unless the folder `path` can be made: it is absent, or empty.
pub fn check_new_folder(flag: &'static str, path: &Path) -> Result<()> {
    if path.is_file() {
        return Err(refused(flag, path, "is a file, expected a new folder"));
    }
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(refused(flag, path, "exists and is not empty: choose another place, or remove it"));
    }
    check_output_folder(flag, path)
}

fn check_writable(flag: &'static str, path: &Path, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        return Err(refused(flag, path, format!("folder {} {what}", folder.display())));
    }
    tempfile::tempfile_in(folder).map(drop).map_err(|source| {
        if is_full(&source) {
            return Error::Io { path: folder.to_owned(), source };
        }
        refused(flag, path, format!("{} cannot be written to: {source}", folder.display()))
    })
}

fn refused(flag: &'static str, path: &Path, problem: impl Into<String>) -> Error {
    Error::Place { flag, path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_take_a_result_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").expect("written");
        std::fs::create_dir(at("empty")).expect("a folder");
        let said = |found: Result<()>| found.expect_err("a problem").to_string();

        for name in ["new", "file"] {
            check_output_file("--json", &at(name)).expect("a file can be there");
        }
        let found = said(check_output_file("--json", folder.path()));
        assert_eq!(found, format!("--json: {}: is a folder, expected a file", folder.path().display()));
        assert!(said(check_output_file("--json", &at("new/"))).ends_with("is a folder, expected a file"));
        assert!(said(check_output_file("--json", Path::new(""))).ends_with("is a folder, expected a file"));
        assert!(said(check_output_file("--json", &at("nowhere/x"))).ends_with("nowhere does not exist"));
        assert!(said(check_output_file("--json", &at("file/x"))).ends_with("file is not a folder"));
        let device = Path::new("/dev/null");
        assert!(said(check_output_file("--json", device)).ends_with("exists and is not a regular file"));

        for name in ["empty", "new", "new/deep/er"] {
            check_new_folder("--out", &at(name)).expect("a folder can be there");
        }
        check_output_folder("--out", folder.path()).expect("a folder with files in it");
        assert!(said(check_new_folder("--out", &at("."))).contains("exists and is not empty"));
        assert!(said(check_new_folder("--out", &at("file"))).ends_with("is a file, expected a new folder"));
        assert!(said(check_output_folder("--out", &at("file"))).ends_with("file is not a folder"));
        assert!(said(check_new_folder("--out", &at("file/x"))).ends_with("file is not a folder"));
        let left = std::fs::read_dir(folder.path()).expect("the folder").count();
        assert_eq!(left, 2, "looking leaves nothing behind");
    }
}
