//! Files that are on the disk when the call returns.
//!
//! A sync alone does not say so on ext4. When the file system meets an error, its journal is aborted
//! and what it had not committed is thrown away; a sync that waits for data meanwhile finds its
//! transaction neither running nor committing, takes it for committed, and returns success
//! (`jbd2_complete_transaction`, up to Linux 6.18 at least). What was written to blocks that were new
//! is then lost with the next mount. A second sync is no better: until the file system is marked as
//! read-only, a synchronous write of its superblock later, it finds nothing to wait for.
//!
//! What begins a new transaction is refused from the abort on, and for good. So each sync is followed
//! by a change that changes nothing: if the kernel takes it, the journal was sound up to here, and the
//! sync before was honest. It waits for no disk.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Whether what was synced before is on the disk: an error if the file system takes no more changes.
///
/// # Errors
/// EROFS or EIO, as the file system says. What was synced may be there or not.
pub(crate) fn confirm(file: &File) -> io::Result<()> {
    // ext4 begins a transaction for a truncation to the length that the file has, and hands its error
    // on; for times or modes it keeps the error to itself.
    file.set_len(file.metadata()?.len())
}

/// Puts `bytes` in the place of a file, whole or not at all, whatever happens meanwhile; a new file
/// has this mode as far as the umask lets it.
///
/// # Errors
/// Of the disk. The file holds what it held, or `bytes`.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let aside = aside(path);
    // A crash may have left one, whose mode would stay.
    absent(fs::remove_file(&aside))?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    sync_directory(path)?;
    confirm(&file)
}

/// Removes a file for good; there may be none.
///
/// # Errors
/// Of the disk. The file may be there or not.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Another's, in a directory of ours: any file there can confirm that it is gone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            absent(fs::remove_file(path))?;
            let other = aside(path);
            let file = File::create(&other)?;
            absent(fs::remove_file(other))?;
            sync_directory(path)?;
            return confirm(&file);
        }
        file => file?,
    };
    absent(fs::remove_file(path))?;
    sync_directory(path)?;
    confirm(&file)
}

/// The name of a file while it is not whole.
fn aside(path: &Path) -> PathBuf {
    let mut aside = OsString::from(path);
    aside.push(".new");
    aside.into()
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "former").unwrap();
        fs::write(dir.path().join("file.new"), "left by a crash").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_removed_and_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "former").unwrap();
        for _ in 0..2 {
            remove(&path).unwrap();
            assert!(!path.exists());
        }
        assert!(remove(dir.path()).is_err());
    }

    #[test]
    fn a_confirmed_file_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "former").unwrap();
        confirm(&OpenOptions::new().write(true).open(&path).unwrap()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"former");
        // What cannot be changed says nothing of what was synced.
        assert!(confirm(&File::open(&path).unwrap()).is_err());
    }
}
