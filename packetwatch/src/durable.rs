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

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

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
        // Another's, in a directory of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            absent(fs::remove_file(path))?;
            return settle(path);
        }
        file => file?,
    };
    absent(fs::remove_file(path))?;
    sync_directory(path)?;
    confirm(&file)
}

/// Gives what lies there, a directory too, another name in the same directory.
///
/// # Errors
/// Of the disk. It has either name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    settle(to)
}

/// Lets two names of one directory change places in one step, whatever has them.
///
/// # Errors
/// Of the disk, or EINVAL of a file system that cannot: NFS and FAT.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?;
    settle(one)
}

/// That names beside this one are on the disk as they are: any file there can confirm it.
fn settle(path: &Path) -> io::Result<()> {
    let other = aside(path);
    let file = File::create(&other)?;
    absent(fs::remove_file(other))?;
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
    fn names_change_and_change_places_whatever_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let [file, directory, free] = ["file", "directory", "free"].map(|n| dir.path().join(n));
        fs::write(&file, "text").unwrap();
        fs::create_dir(&directory).unwrap();
        exchange(&file, &directory).unwrap();
        assert_eq!(fs::read(&directory).unwrap(), b"text");
        rename(&file, &free).unwrap();
        assert!(free.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(exchange(&file, &directory).is_err(), "there is none");
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
