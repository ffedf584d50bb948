//! Files that are complete or absent.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::{Error, Result};

/// How the names of unfinished files begin; the rest is drawn anew for each.
const UNFINISHED: &str = ".writing-";

/// Writes a file under a temporary name in the same folder, then renames it into place.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder_of(path))?;
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()?;
        // Temporary files are private to their owner; results are not.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Error::io(path))
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether this is the name of a file that a killed writer of [`write_atomically`] left.
pub fn is_unfinished(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())
}

/// Removes what a writer that was killed left unfinished in a folder. Only for whoever alone writes
/// there.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let remove = || -> std::io::Result<()> {
        for entry in folder.read_dir()? {
            let entry = entry?;
            if is_unfinished(&entry.file_name()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(Error::io(folder))
}

/// Whether a file could not be written for want of room: another place on the same disk would do no
/// better.
pub fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
