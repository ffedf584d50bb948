//! Folders that one process writes to.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::{Error, Result};

/// The right to write to a folder, held as long as this lives. The system takes it back when the
/// process ends, in whatever way; the file that stands for it stays.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "it is locked as long as it is open")] File);

impl FolderLock {
    /// Takes the lock that stands for the file `path`; nothing if another process, or another part
    /// of this one, has it.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = open.map_err(Error::io(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::Io { path: path.to_owned(), source }),
        }
    }
}
