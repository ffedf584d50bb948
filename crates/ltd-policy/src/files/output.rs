//! Where results go: looked at before the work that makes them.

use std::path::{Path, PathBuf, is_separator};

use super::atomic_file::{folder_of, is_full};
use crate::{Error, Result};

/// Fails unless a file can be written at `path`, which `flag` of a command line named, and none of
/// `others` is there: files that the program reads, or writes besides. Links are followed.
pub fn check_output_file<'p>(
    flag: &'static str,
    path: &Path,
    others: impl IntoIterator<Item = &'p Path>,
) -> Result<()> {
    if path.is_dir() || path.to_string_lossy().ends_with(is_separator) || path.file_name().is_none() {
        return Err(refused(flag, path, "is a folder, expected a file"));
    }
    if path.exists() && !path.is_file() {
        return Err(refused(flag, path, "exists and is not a regular file"));
    }
    check_writable(flag, path, folder_of(path))?;
    let place = place(path);
    if others.into_iter().any(|other| self::place(other) == place) {
        return Err(refused(flag, path, "would replace a file that is read or written here, too"));
    }
    Ok(())
}

/// Where a path leads, by a name of its own; that of a file which is not there yet is its folder's.
fn place(path: &Path) -> PathBuf {
    let absent = || Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(absent).unwrap_or_else(|| path.to_owned())
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
        let what = match (folder.exists(), folder == path) {
            (true, true) => "is a file, expected a folder".to_owned(),
            (true, false) => format!("{} is not a folder", folder.display()),
            (false, _) => format!("folder {} does not exist", folder.display()),
        };
        return Err(refused(flag, path, what));
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

        let check_output_file = |flag, path: &Path| super::check_output_file(flag, path, [] as [&Path; 0]);
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
        let found = said(check_output_folder("--out", &at("file")));
        assert!(found.ends_with("file: is a file, expected a folder"), "{found}");
        assert!(said(check_new_folder("--out", &at("file/x"))).ends_with("file is not a folder"));
        let left = std::fs::read_dir(folder.path()).expect("the folder").count();
        assert_eq!(left, 2, "looking leaves nothing behind");
    }

    #[test]
    fn what_is_read_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("read"), "").expect("written");
        std::fs::create_dir(at("folder")).expect("a folder");
        std::os::unix::fs::symlink(at("read"), at("link")).expect("a link");
        let check = |path: &str, others: &[&str]| {
            let others: Vec<PathBuf> = others.iter().map(|name| at(name)).collect();
            check_output_file("--json", &at(path), others.iter().map(PathBuf::as_path))
        };
        check("new", &["read", "folder", "other"]).expect("it is apart");
        for (path, other) in [
            ("read", "read"),
            ("folder/../read", "read"),
            ("link", "read"),
            ("read", "link"),
            ("new", "folder/../new"),
        ] {
            let error = check(path, &["folder", other]).expect_err("they are the same");
            assert!(error.is_usage() && error.to_string().contains("would replace a file"), "{error}");
        }
    }
}
